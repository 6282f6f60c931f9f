// SPDX-License-Identifier: Apache-2.0
//
// What the scenarios use: services made from .proto files, calls as promises, and checks that say what they wanted.
'use strict';

const fs = require('fs');
const path = require('path');
const modules = process.env.USHER_NODE_MODULES;
const grpc = require(path.join(modules, '@grpc/grpc-js'));
const loader = require(path.join(modules, '@grpc/proto-loader'));

const OPTIONS = { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true };
const FILES = ['usher/control/v1/daemon.proto', 'usher/control/v1/engines.proto', 'usher/control/v1/workers.proto',
  'usher/control/v1/ports.proto', 'usher/control/v1/sessions.proto', 'usher/control/v1/counters.proto',
  'grpc/health/v1/health.proto', 'grpc/reflection/v1/reflection.proto', 'grpc/reflection/v1alpha/reflection.proto',
  'google/rpc/status.proto'];

function definition(protoDir) {
  return loader.loadSync(FILES, { ...OPTIONS, includeDirs: [protoDir] });
}

function check(condition, text) {
  if (!condition) {
    throw new Error(text);
  }
}

// The answer of a unary call, or the error.
function unary(service, method, request = {}, options = {}) {
  return new Promise((resolve) => {
    service[method](request, new grpc.Metadata(), options, (error, answer) => resolve(error || answer));
  });
}

// All messages of a stream, or the error.
function collect(service, method, request = {}, options = {}) {
  return new Promise((resolve) => {
    const messages = [];
    const stream = service[method](request, new grpc.Metadata(), options);
    stream.on('data', (m) => messages.push(m));
    stream.on('error', resolve);
    stream.on('end', () => resolve(messages));
  });
}

// The first `count` messages; the stream stays open.
function take(stream, count) {
  return new Promise((resolve, reject) => {
    const messages = [];
    stream.on('error', reject);
    stream.on('data', (m) => {
      messages.push(m);
      if (messages.length === count) {
        resolve(messages);
      }
    });
  });
}

function ended(stream) {
  return new Promise((resolve) => {
    stream.on('data', () => {});
    stream.on('error', resolve);
    stream.on('end', () => resolve(null));
  });
}

// Bytes as they are, to any method.
function raw(client, method, bytes) {
  return new Promise((resolve) => {
    client.makeUnaryRequest(method, (x) => x, (x) => x, bytes, (error, answer) => resolve(error || answer));
  });
}

function expectCode(result, code, what) {
  check(result && result.code === code, `${what}: wanted status ${code}, got ` +
    `${result && result.code !== undefined ? `${result.code} ${result.details}` : JSON.stringify(result).slice(0, 200)}`);
}

function pem(file) {
  return fs.readFileSync(file);
}

module.exports = { grpc, loader, OPTIONS, definition, check, unary, collect, take, ended, raw, expectCode, pem };
