//go:build race

// Package race tells tests whether the race detector is on.
package race

// Enabled: whatsmeow itself has data races, between a send and the loss of the
// link and between a send that is given up and its answer, which show where
// both happen all the time.
const Enabled = true
