// Package firestoresim is Firestore for tests: its gRPC API in process, and a
// launcher of the official emulator.
package firestoresim
