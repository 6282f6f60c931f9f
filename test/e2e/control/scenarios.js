// SPDX-License-Identifier: Apache-2.0
//
// node scenarios.js NAME ARGUMENTS-AS-JSON: runs one scenario against a running usherd; exit 1 and a sentence when
// something is not as it should be. Arguments: target, proto (folder of the .proto files), and what a scenario needs.
'use strict';

const { grpc, loader, OPTIONS, definition, check, unary, collect, take, ended, raw, expectCode, pem } =
  require('./client.js');

const insecure = grpc.credentials.createInsecure();

function open(a, credentials = insecure, options = {}) {
  const def = definition(a.proto);
  const control = grpc.loadPackageDefinition(def).usher.control.v1;
  const all = grpc.loadPackageDefinition(def);
  const make = (Service) => new Service(a.target, credentials, options);
  return {
    def,
    daemon: make(control.Daemon), engines: make(control.Engines), workers: make(control.Workers),
    ports: make(control.Ports), sessions: make(control.Sessions), sockets: make(control.Sockets),
    counters: make(control.Counters), events: make(control.Events),
    health: make(all.grpc.health.v1.Health),
    reflection: make(all.grpc.reflection.v1.ServerReflection),
    reflectionAlpha: make(all.grpc.reflection.v1alpha.ServerReflection),
    bare: new grpc.Client(a.target, credentials, options),
  };
}

// What an error says besides its sentence: reason, and the field if it names one.
function detailsOf(c, error) {
  const bytes = error.metadata.get('grpc-status-details-bin')[0];
  check(bytes, 'the error carries no grpc-status-details-bin');
  const status = c.def['google.rpc.Status'];
  const decode = (type, b) => c.types[type](b);
  check(status, 'no definition of google.rpc.Status');
  const decoded = decode('google.rpc.Status', bytes);
  const out = { code: decoded.code, message: decoded.message };
  for (const d of decoded.details) {
    const type = d.type_url.split('/')[1];
    const value = decode(type, d.value);
    if (type === 'google.rpc.ErrorInfo') {
      Object.assign(out, { reason: value.reason, domain: value.domain });
    } else {
      out.field = value.field_violations[0].field;
    }
  }
  return out;
}

// Decoders of plain messages: proto-loader gives descriptors, protobufjs (which comes with it) reads them.
function decoders(a) {
  const protobuf = require(require.resolve('protobufjs', { paths: [process.env.USHER_NODE_MODULES] }));
  const root = new protobuf.Root();
  root.resolvePath = (origin, target) => `${a.proto}/${target}`;
  root.loadSync('google/rpc/status.proto', { keepCase: true });
  return new Proxy({}, { get: (_, type) => (b) => root.lookupType(type).decode(b) });
}

async function basics(a) {
  const c = open(a);
  c.types = decoders(a);
  const info = await unary(c.daemon, 'GetInfo');
  check(info.version && info.caller, `GetInfo: ${JSON.stringify(info)}`);
  check(info.caller.role === 'ROLE_ADMIN' && info.caller.via === 'unix' && info.caller.pid === process.pid,
    `the caller is taken for ${JSON.stringify(info.caller)}`);
  const config = await unary(c.daemon, 'GetConfig');
  const checked = await unary(c.daemon, 'CheckConfig', { yaml: config.yaml });
  check(checked.valid && checked.yaml === config.yaml, `the printed settings are not the same again: ${checked.problems}`);
  const wrong = await unary(c.daemon, 'CheckConfig', { yaml: 'runtime: {mod: 1}' });
  check(!wrong.valid && wrong.problem_count === 1 && wrong.problems[0].startsWith('request:1:'),
    `a wrong setting: ${JSON.stringify(wrong)}`);
  const again = await unary(c.daemon, 'CheckConfig');
  check(again.valid, `the files on disk: ${again.problems}`);
  const engines = (await unary(c.engines, 'List')).engines;
  check(engines.map((e) => e.name).join() === 'ip,udp,tcp,filter,qos', `engines: ${engines.map((e) => e.name)}`);
  check(engines[2].protocol === 6 && engines[2].counters.length > 10, 'tcp has its protocol and counters');
  const unknown = await unary(c.engines, 'List', { name: 'nonesuch' });
  expectCode(unknown, grpc.status.NOT_FOUND, 'an engine that is not loaded');
  const why = detailsOf(c, unknown);
  check(why.reason === 'ENGINE_UNKNOWN' && why.domain === 'usher' && why.field === 'name' && why.code === 5 &&
    why.message === unknown.details, `details: ${JSON.stringify(why)}`);
  const ports = (await unary(c.ports, 'List')).ports;
  check(ports.length === 1 && ports[0].name === 'va' && ports[0].up && ports[0].kind === 'packet',
    `ports: ${JSON.stringify(ports)}`);
  const counters = await unary(c.counters, 'Get', { prefix: 'drop.', with_zeros: true });
  check(counters.counters.length > 20 && counters.counters.every((x) => x.name.startsWith('drop.') && x.help),
    'counters by prefix');
  const health = await unary(c.health, 'Check', { service: 'usher.control.v1.Daemon' });
  check(health.status === 'SERVING', `health: ${JSON.stringify(health)}`);
  expectCode(await unary(c.health, 'Check', { service: 'nonesuch' }), grpc.status.NOT_FOUND, 'health of nobody');
}

async function workers(a) {
  const c = open(a);
  const before = await unary(c.workers, 'List');
  check(before.workers.length >= 1 && before.shards.length >= 1, JSON.stringify(before).slice(0, 200));
  for (const mode of ['COMPACTING', 'DEDICATED', 'SPREADING']) {
    const set = await unary(c.workers, 'SetMode', { mode: `SCHEDULING_MODE_${mode}` });
    check(set.mode === `SCHEDULING_MODE_${mode}` && set.mode_why, `SetMode ${mode}: ${set.details || set.mode}`);
  }
  expectCode(await unary(c.workers, 'SetMode', {}), grpc.status.INVALID_ARGUMENT, 'no mode');
  const moved = await unary(c.workers, 'MoveShard', { shard: 0, worker: 0 });
  check(moved.worker_before === 0, `MoveShard: ${moved.details || JSON.stringify(moved)}`);
  expectCode(await unary(c.workers, 'MoveShard', { shard: 99 }), grpc.status.NOT_FOUND, 'shard 99');
  expectCode(await unary(c.workers, 'MoveShard', { worker: 99 }), grpc.status.NOT_FOUND, 'worker 99');
}

async function streams(a) {
  const c = open(a);
  const watch = c.counters.Watch({ interval_ms: 100, with_zeros: true, changes_only: true });
  const snapshots = await take(watch, 3);
  check(snapshots[0].counters.length > snapshots[2].counters.length, 'later snapshots hold only what changed');
  check(snapshots[0].counters[0].help && !(snapshots[1].counters[0] || {}).help, 'help comes once');
  watch.removeAllListeners();
  const cancelled = ended(watch);
  watch.cancel();
  expectCode(await cancelled, grpc.status.CANCELLED, 'a stream that its caller cancels');
  const late = await collect(c.counters, 'Watch', {}, { deadline: Date.now() + 300 });
  expectCode(late, grpc.status.DEADLINE_EXCEEDED, 'a stream with a deadline');
  expectCode(await collect(c.counters, 'Watch', { interval_ms: 5 }), grpc.status.INVALID_ARGUMENT, 'too often');
  const events = c.events.Watch({ prefix: 'audit' });
  const first = take(events, 1);
  await new Promise((r) => { setTimeout(r, 100); });
  await unary(c.daemon, 'SetLogLevel', { level: 'debug' });
  const [event] = await first;
  check(event.name === 'audit' && event.text.includes('before "info", after "debug"'), JSON.stringify(event));
  events.removeAllListeners();
  events.on('error', () => {});
  events.cancel();
  await unary(c.daemon, 'SetLogLevel', { level: 'info' });
  const old = c.events.Watch({ history: 1000 });
  const history = await take(old, 5);
  old.cancel();
  check(history.every((e, i) => i === 0 || BigInt(e.number) > BigInt(history[i - 1].number)), 'history is in order');
}

// A client that has no .proto file at all: all it knows it learns from the server.
async function learn(service) {
  const stream = service.ServerReflectionInfo();
  const ask = (request) => new Promise((resolve, reject) => {
    stream.once('data', resolve);
    stream.once('error', reject);
    stream.write(request);
  });
  const listed = await ask({ list_services: '' });
  const names = listed.list_services_response.service.map((s) => s.name);
  const answer = await ask({ file_containing_symbol: 'usher.control.v1.Daemon' });
  const nested = await ask({ file_containing_symbol: 'grpc.health.v1.HealthCheckResponse.ServingStatus' });
  const byName = await ask({ file_by_filename: 'usher/control/v1/workers.proto' });
  const none = await ask({ file_containing_symbol: 'usher.control.v1.Nonesuch' });
  check(nested.file_descriptor_response && byName.file_descriptor_response, 'files by nested symbol and by name');
  check(none.error_response && none.error_response.error_code === 5, 'an unknown symbol is an answer, not the end');
  stream.end();
  await ended(stream);
  return { names, files: answer.file_descriptor_response.file_descriptor_proto };
}

async function reflection(a) {
  const c = open(a);
  for (const service of [c.reflection, c.reflectionAlpha]) {
    const { names, files } = await learn(service);
    for (const wanted of ['usher.control.v1.Sockets', 'grpc.health.v1.Health', 'grpc.reflection.v1.ServerReflection']) {
      check(names.includes(wanted), `${wanted} is not among ${names}`);
    }
    const set = Buffer.concat(files.map((f) => {
      const head = [0x0a];
      for (let n = f.length; ; n >>= 7) {
        head.push(n > 127 ? (n & 127) | 128 : n);
        if (n <= 127) {
          break;
        }
      }
      return Buffer.concat([Buffer.from(head), f]);
    }));
    const learnt = grpc.loadPackageDefinition(loader.loadFileDescriptorSetFromBuffer(set, OPTIONS));
    const daemon = new learnt.usher.control.v1.Daemon(a.target, insecure);
    const info = await unary(daemon, 'GetInfo');
    check(info.version && info.pid > 0, `by reflection alone: ${info.details || JSON.stringify(info)}`);
  }
}

function varintBomb(levels) {
  let b = Buffer.alloc(0);
  for (let i = 0; i < levels; i++) {
    const head = [0x0a];
    for (let n = b.length; ; n >>= 7) {
      head.push(n > 127 ? (n & 127) | 128 : n);
      if (n <= 127) {
        break;
      }
    }
    b = Buffer.concat([Buffer.from(head), b]);
  }
  return b;
}

async function hostile(a) {
  const c = open(a);
  const S = grpc.status;
  const info = '/usher.control.v1.Daemon/GetInfo';
  const list = '/usher.control.v1.Engines/List';
  expectCode(await raw(c.bare, '/usher.control.v1.Daemon/Nonesuch', Buffer.alloc(0)), S.UNIMPLEMENTED, 'method');
  expectCode(await raw(c.bare, '/nonesuch', Buffer.alloc(0)), S.UNIMPLEMENTED, 'path without a service');
  expectCode(await raw(c.bare, `/${'x'.repeat(4000)}/y`, Buffer.alloc(0)), S.UNIMPLEMENTED, 'long path');
  expectCode(await raw(c.bare, info, Buffer.alloc(70000)), S.RESOURCE_EXHAUSTED, 'a message of 70000 bytes');
  expectCode(await raw(c.bare, info, Buffer.from([0xff])), S.INVALID_ARGUMENT, 'a cut tag');
  expectCode(await raw(c.bare, list, Buffer.from([0x0a, 5, 0x61])), S.INVALID_ARGUMENT, 'a cut text');
  expectCode(await raw(c.bare, list, Buffer.from([0x0a, 1, 0xff])), S.INVALID_ARGUMENT, 'a text that is no UTF-8');
  expectCode(await raw(c.bare, list, Buffer.from([0x0a, 1, 0])), S.INVALID_ARGUMENT, 'a text with a NUL');
  expectCode(await raw(c.bare, '/usher.control.v1.Sockets/List', varintBomb(3000)), S.INVALID_ARGUMENT, 'deep nesting');
  const many = Buffer.from(Array(20000).fill([0x10, 1]).flat());
  expectCode(await raw(c.bare, list, many), S.INVALID_ARGUMENT, 'many fields');
  for (let i = 0; i < 300; i++) {
    const bytes = Buffer.from(Array.from({ length: i }, () => Math.floor(Math.random() * 256)));
    const r = await raw(c.bare, '/usher.control.v1.Sockets/Kill', bytes);
    check([S.INVALID_ARGUMENT, S.NOT_FOUND].includes(r.code), `random bytes: ${r.code} ${r.details}`);
  }
  expectCode(await collect(c.sockets, 'List', { filter: { local_prefix: '10.0.0.0/33' } }), S.INVALID_ARGUMENT, 'prefix');
  check((await unary(c.daemon, 'GetInfo')).version, 'it still serves');
}

async function list(a) {
  const c = open(a);
  const sessions = (await collect(c.sessions, 'List')).flatMap((m) => m.sessions);
  check(sessions.length === a.sessions, `${sessions.length} sessions instead of ${a.sessions}`);
  const udp = sessions.find((s) => s.label === 'udp-echo');
  check(udp && udp.owner.comm === 'udp-echo' && udp.sockets === 1, JSON.stringify(sessions));
  const all = (await collect(c.sockets, 'List')).flatMap((m) => m.sockets);
  const count = (filter) => collect(c.sockets, 'List', { filter })
    .then((r) => r.flatMap((m) => m.sockets).length);
  check(all.length === 3, `${all.length} sockets: ${all.map((s) => s.state)}`);
  const stream = all.find((s) => s.state === 'SOCKET_STATE_ESTABLISHED');
  check(stream.remote_address === a.peer && stream.tcp.rtt_us > 0 && stream.rx_bytes === '5', JSON.stringify(stream));
  check(all[0].how.includes('packet on va') && all[0].why, 'how it is carried, and why');
  check(await count({ protocol: 'PROTOCOL_UDP' }) === 1, 'by protocol');
  check(await count({ states: ['SOCKET_STATE_LISTEN', 'SOCKET_STATE_UNCONNECTED'] }) === 2, 'by states');
  check(await count({ local_prefix: '10.0.0.0/8' }) === 1, 'by local prefix');
  check(await count({ remote_prefix: a.peer, remote_port: stream.remote_port }) === 1, 'by peer');
  check(await count({ session: { comm: 'udp-echo' } }) === 1, 'by program');
  check(await count({ session: { uid: 0 } }) === 3, 'by user');
  check(await count({ session: { uid: 4711 } }) === 0, 'by another user');
  const some = (await collect(c.sockets, 'List', { limit: 2, without_tcp: true })).flatMap((m) => m.sockets);
  check(some.length === 2 && some.every((s) => s.tcp === null), 'limited, without tcp');
  const refused = (await unary(c.sockets, 'ListRefusals')).refusals;
  check(Array.isArray(refused), 'refusals');
  const datagram = all.find((s) => s.session_id === udp.session_id);
  const off = await unary(c.sockets, 'Kill', { session_id: udp.session_id, handle: datagram.handle });
  check(off.socket && off.socket.local_port === 7001, off.details);
  check(await count({ protocol: 'PROTOCOL_UDP' }) === 0, 'a datagram socket is let go');
  expectCode(await unary(c.sockets, 'Kill', { session_id: udp.session_id, handle: datagram.handle }),
    grpc.status.NOT_FOUND, 'twice');
  const listener = all.find((s) => s.state === 'SOCKET_STATE_LISTEN');
  const l = await unary(c.sockets, 'Kill', { session_id: listener.session_id, handle: listener.handle });
  check(l.socket, l.details);
  check(await count({ states: ['SOCKET_STATE_LISTEN'] }) === 0, 'a listener is let go');
  expectCode(await unary(c.sockets, 'Kill', { session_id: udp.session_id, handle: 77 }), grpc.status.NOT_FOUND, 'none');
  const killed = await unary(c.sockets, 'Kill', { session_id: stream.session_id, handle: stream.handle });
  check(killed.socket && killed.socket.remote_port === stream.remote_port, killed.details);
  const ends = await unary(c.sessions, 'Kill', { session_id: udp.session_id });
  check(ends.session && ends.session.label === 'udp-echo', ends.details);
  expectCode(await unary(c.sessions, 'Kill', { session_id: udp.session_id }), grpc.status.NOT_FOUND, 'twice');
}

// Streams of all kinds on one connection, some of which nobody reads; then it waits to be killed.
async function crowd(a) {
  const c = open(a);
  const all = [];
  for (let i = 0; i < a.count; i++) {
    const s = i % 2 === 0 ? c.counters.Watch({ interval_ms: 100, with_zeros: true }) : c.events.Watch({ history: 1000 });
    all.push(i % 4 === 0 ? new Promise((resolve, reject) => {
      s.on('error', reject);
      s.once('metadata', () => { s.pause(); resolve(); });
      s.pause();
      s.resume();
    }) : take(s, 1));
  }
  await Promise.all(all);
  console.log('streaming');
  await new Promise((r) => { setTimeout(r, 60000); });
}

async function limits(a) {
  const c = open(a);
  const open1 = Array.from({ length: a.calls }, () => c.events.Watch({ history: 1 }));
  await Promise.all(open1.map((s) => take(s, 1)));
  const over = await unary(c.daemon, 'GetInfo');
  expectCode(over, grpc.status.RESOURCE_EXHAUSTED, 'one call too many');
  open1.forEach((s) => { s.removeAllListeners(); s.on('error', () => {}); s.cancel(); });
  await new Promise((r) => { setTimeout(r, 200); });
  check((await unary(c.daemon, 'GetInfo')).version, 'after they ended');
  let limited = a.rate === 0;
  for (let i = 0; i < 100 && !limited; i++) {
    const some = await Promise.all(Array.from({ length: 10 }, () => unary(c.daemon, 'GetInfo')));
    limited = some.some((r) => r.code === grpc.status.RESOURCE_EXHAUSTED && r.details.includes('caller_rate'));
  }
  check(limited, 'calling faster than the limit is refused');
}

async function viewer(a) {
  const c = open(a);
  const info = await unary(c.daemon, 'GetInfo');
  check(info.caller && info.caller.role === 'ROLE_VIEWER', `viewer: ${info.details || JSON.stringify(info.caller)}`);
  const denied = await unary(c.daemon, 'Drain', { drain: true });
  expectCode(denied, grpc.status.PERMISSION_DENIED, 'a viewer that drains');
  check(denied.details.includes('needs the role operator'), denied.details);
}

async function refused(a) {
  const c = open(a);
  const r = await unary(c.daemon, 'GetInfo', {}, { deadline: Date.now() + 3000 });
  check([grpc.status.UNAVAILABLE, grpc.status.DEADLINE_EXCEEDED].includes(r.code), `served: ${JSON.stringify(r)}`);
}

async function tls(a) {
  const files = (name) => [pem(`${a.certs}/${name}.key`), pem(`${a.certs}/${name}.pem`)];
  const as = (name, ca = 'ca') => grpc.credentials.createSsl(pem(`${a.certs}/${ca}.pem`), ...(name ? files(name) : []));
  const soon = () => ({ deadline: Date.now() + 5000 });
  const admin = open(a, as('admin'));
  const info = await unary(admin.daemon, 'GetInfo', {}, soon());
  check(info.caller && info.caller.via === 'tls' && info.caller.name === 'ops.example' &&
    info.caller.role === 'ROLE_ADMIN' && info.caller.address.startsWith('127.0.0.1:'),
    `by TLS: ${info.details || JSON.stringify(info.caller)}`);
  check((await collect(admin.sockets, 'List', {}, soon())).length === 1, 'a stream by TLS');
  const nobody = await unary(open(a, as('stranger')).daemon, 'GetInfo', {}, soon());
  expectCode(nobody, grpc.status.UNAUTHENTICATED, 'a name without a role');
  const none = await unary(open(a, as(null)).daemon, 'GetInfo', {}, soon());
  check([grpc.status.UNAVAILABLE, grpc.status.DEADLINE_EXCEEDED].includes(none.code), 'no certificate is no way in');
  const foreign = await unary(open(a, as('foreign')).daemon, 'GetInfo', {}, soon());
  check([grpc.status.UNAVAILABLE, grpc.status.DEADLINE_EXCEEDED].includes(foreign.code), 'another authority\'s');
  const plain = await unary(open(a).daemon, 'GetInfo', {}, soon());
  check([grpc.status.UNAVAILABLE, grpc.status.DEADLINE_EXCEEDED].includes(plain.code), 'without TLS');
  check((await unary(admin.daemon, 'GetInfo', {}, soon())).version, 'it still serves');
}

async function renewed(a) {
  const pair = [pem(`${a.certs}/admin.key`), pem(`${a.certs}/admin.pem`)];
  const by = (ca) => open(a, grpc.credentials.createSsl(pem(`${a.certs}/${ca}.pem`), ...pair));
  const soon = () => ({ deadline: Date.now() + 5000 });
  const info = await unary(by('other').daemon, 'GetInfo', {}, soon());
  check(info.caller && info.caller.name === 'ops.example', `the new certificate: ${info.details}`);
  const old = await unary(by('ca').daemon, 'GetInfo', {}, soon());
  check(old.code === grpc.status.UNAVAILABLE || old.code === grpc.status.DEADLINE_EXCEEDED, 'the old one is gone');
}

async function drain(a) {
  const c = open(a);
  const watch = c.health.Watch({});
  const states = take(watch, 2);
  await new Promise((r) => { setTimeout(r, 100); });
  const d = await unary(c.daemon, 'Drain', { drain: true });
  check(d.sessions === 1, `Drain: ${d.details || JSON.stringify(d)}`);
  check((await states).map((s) => s.status).join() === 'SERVING,NOT_SERVING', 'health tells it');
  expectCode(await unary(c.daemon, 'Shutdown', {}), grpc.status.FAILED_PRECONDITION, 'with a session attached');
  watch.removeAllListeners();
  const last = ended(watch);
  const r = await unary(c.daemon, 'Shutdown', { force: true });
  check(!r.code, `Shutdown: ${r.details}`);
  expectCode(await last, grpc.status.UNAVAILABLE, 'a stream at the end');
}

const scenarios = { basics, workers, streams, reflection, hostile, list, crowd, limits, viewer, refused, tls, renewed, drain };

scenarios[process.argv[2]](JSON.parse(process.argv[3]))
  .then(() => { console.log('ok'); process.exit(0); })
  .catch((e) => { console.log(`FAILED: ${e.message}`); process.exit(1); });
