package stabilitytest

import "os"

// FullEnv is the environment variable that selects the full test size.
const FullEnv = "WASTABILITY_FULL"

// Full reports whether tests run at full size: WASTABILITY_FULL=1.
func Full() bool { return os.Getenv(FullEnv) == "1" }

// Pick returns def for an ordinary test run and full when Full is true. Every
// count that makes a test long goes through it, so that one variable decides.
func Pick[T any](def, full T) T {
	if Full() {
		return full
	}
	return def
}
