// Package stabilitytest is the library's public test kit.
//
// Its parts are packages of their own: wasim is a simulated WhatsApp service
// that real, unmodified whatsmeow clients connect to, firestoresim is Firestore
// in process, and starts the official emulator, postgrestest starts real Postgres
// servers. This package itself only holds what all tests share: the size of a
// test run.
package stabilitytest
