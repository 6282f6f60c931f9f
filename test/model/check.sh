#!/bin/sh
# Runs the models of wakeup.pml exhaustively. Usage: check.sh FOLDER-OF-THE-MODEL SCRATCH-FOLDER
# A model without one of its fences must fail: else the model could not see a lost wake-up.
set -eu
model=$1/wakeup.pml
scratch=$2
mkdir -p "$scratch"
cd "$scratch"

# verify NAME expected(pass|fail) -D...
verify() {
    name=$1
    expected=$2
    shift 2
    rm -rf "$name"
    mkdir "$name"
    cd "$name"
    spin -a "$@" "$model" >spin.log 2>&1 || { cat spin.log; exit 1; }
    ${CC:-cc} -O1 -w -DSAFETY -DVECTORSZ=1024 -o pan pan.c
    ./pan -m200000 >pan.log 2>&1 || true
    grep -q "max search depth too small" pan.log && { echo "$name: the search was cut short"; exit 1; }
    if grep -q "errors: 0" pan.log; then found=pass; else found=fail; fi
    states=$(sed -n 's/^ *\([0-9][0-9]*\) states, stored.*/\1/p' pan.log)
    echo "$name: $found, $states states, expected $expected"
    [ "$found" = "$expected" ] || { cat pan.log; exit 1; }
    cd ..
}

verify wake-client pass -DWAKE_CLIENT
verify kick-worker pass -DKICK_WORKER
verify move pass -DMOVE
verify wake-client-unfenced-worker fail -DWAKE_CLIENT -DNO_WAKER_FENCE
verify wake-client-unfenced-client fail -DWAKE_CLIENT -DNO_SLEEPER_FENCE
verify kick-worker-unfenced-client fail -DKICK_WORKER -DNO_WAKER_FENCE
verify kick-worker-unfenced-worker fail -DKICK_WORKER -DNO_SLEEPER_FENCE
