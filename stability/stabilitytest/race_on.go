//go:build race

package stabilitytest

// Race reports whether the race detector is on. The code of whatsmeow itself
// has data races: between a send and the loss of the link, and between a send
// that is given up and its answer. Tests in which both happen all the time use
// smaller counts under the detector, or leave it out.
const Race = true
