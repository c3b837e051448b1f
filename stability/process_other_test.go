//go:build !linux && !darwin

package stability_test

// playPart: the tests with real processes need signals that are not here.
func playPart() bool { return false }
