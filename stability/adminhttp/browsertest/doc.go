// Package browsertest tests the page of adminhttp in a real browser: Chromium,
// without a window. The instances behind the page are real Managers with real
// whatsmeow clients; only the WhatsApp service is simulated.
//
// The tests need Chromium at /usr/bin/chromium, or where WASTABILITY_CHROMIUM
// says. Without it they are skipped, or fail with WASTABILITY_NEED_CHROMIUM=1.
//
//	go test ./...                          # in this directory
//	WASTABILITY_PICTURES=DIR go test .  # also writes what the browser shows, in each state
//	go test -run Readme -update            # draws the pictures of the README anew
package browsertest
