//go:build race

package authstore_test

// raceEnabled: whatsmeow itself has a data race between a send and the loss of
// the link, which shows on real sockets when both happen all the time.
const raceEnabled = true
