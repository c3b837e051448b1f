// Package stabilitytest is the library's public test kit.
//
// Its parts are packages of their own. Package wasim is a simulated WhatsApp
// service that real, unmodified whatsmeow clients connect to. Package
// firestoresim is Firestore in process, and starts the official emulator.
// Package postgrestest starts real Postgres servers, and child runs a test's
// binary as a process that can be killed. This package itself only holds what
// all tests share: the size of a test run, whether the race detector watches
// it, and a free port.
package stabilitytest
