//go:build !race

package stability_test

const raceEnabled = false
