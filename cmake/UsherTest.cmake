# ctest entries.
#
#   usher_test(NAME SOURCES ... [DEPENDS ...] [TIMEOUT s] [LABEL unit|e2e])
#       one Criterion binary; one ctest entry for each suite in it. A test that needs a privilege it lacks prints
#       "SKIPPED: reason" and returns.
#
# Criterion passes a filter that matches nothing and a test that leaks, so a run also fails on those words in what it
# prints.
find_library(CRITERION criterion REQUIRED)

set(USHER_TEST_FAIL "Tested: 0 ;ERROR: AddressSanitizer;ERROR: LeakSanitizer;runtime error:;WARNING: ThreadSanitizer")
set(USHER_TEST_ENV "UBSAN_OPTIONS=print_stacktrace=1;TSAN_OPTIONS=halt_on_error=1")

function(usher_test name)
  cmake_parse_arguments(A "" "TIMEOUT;LABEL" "SOURCES;DEPENDS" ${ARGN})
  if(NOT A_LABEL)
    set(A_LABEL unit)
  endif()
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 60)
  endif()
  if(USHER_SANITIZE)
    math(EXPR A_TIMEOUT "${A_TIMEOUT} * 5") # it only ends what hangs, and sanitized code takes its time
  endif()
  add_executable(${name} ${A_SOURCES})
  target_link_libraries(${name} PRIVATE usher_flags ${A_DEPENDS})
  if(USHER_SANITIZE MATCHES "thread")
    # Criterion cannot start under the thread sanitizer; the same macros, written plainly, can.
    target_sources(${name} PRIVATE ${CMAKE_SOURCE_DIR}/test/harness/plain/plain.c)
    target_include_directories(${name} BEFORE PRIVATE ${CMAKE_SOURCE_DIR}/test/harness/plain)
    target_compile_options(${name} PRIVATE -Wno-sign-compare) # Criterion's comparisons hide it too
  else()
    target_link_libraries(${name} PRIVATE ${CRITERION})
  endif()
  # Criterion's macros make their own prototypes and shadow nothing of ours.
  target_compile_options(${name} PRIVATE -Wno-missing-prototypes -Wno-conversion -Wno-strict-prototypes)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  set(suites "")
  foreach(src ${A_SOURCES})
    file(STRINGS ${CMAKE_CURRENT_SOURCE_DIR}/${src} lines REGEX "^(Test|ParameterizedTest|Theory)[ ]*\\(")
    foreach(line ${lines})
      string(REGEX REPLACE "^[A-Za-z]+[ ]*\\((\\([^)]*\\),[ ]*|struct [^,]*,[ ]*)?([a-zA-Z0-9_]+)[ ]*,.*" "\\2"
        suite "${line}")
      list(APPEND suites ${suite})
    endforeach()
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${src})
  endforeach()
  list(REMOVE_DUPLICATES suites)
  set(labels ${A_LABEL})
  if(CMAKE_CURRENT_SOURCE_DIR MATCHES "/(engines|nicbackend)(/|$)")
    list(APPEND labels one-thread) # these rooms know no threads: nothing for the thread sanitizer to find
  endif()
  if(NOT suites)
    message(FATAL_ERROR "${name}: no Criterion suite found in ${A_SOURCES}")
  endif()
  foreach(suite ${suites})
    add_test(NAME ${A_LABEL}.${name}.${suite} COMMAND ${name} --filter "${suite}/*" --ascii -j1)
    set_tests_properties(${A_LABEL}.${name}.${suite} PROPERTIES TIMEOUT ${A_TIMEOUT} LABELS "${labels}"
      SKIP_REGULAR_EXPRESSION "SKIPPED: "
      FAIL_REGULAR_EXPRESSION "${USHER_TEST_FAIL}" ENVIRONMENT "${USHER_TEST_ENV}")
  endforeach()
endfunction()
