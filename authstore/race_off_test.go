//go:build !race

package authstore_test

const raceEnabled = false
