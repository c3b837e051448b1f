//go:build race

package wasim_test

// raceEnabled: whatsmeow itself has a data race between a send and the loss of
// the link, so tests that make both happen at once do it another way.
const raceEnabled = true
