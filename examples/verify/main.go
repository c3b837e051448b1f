// Command verify makes happen what the library was asked for in the first
// place, on real parts, and checks it:
//
//	DoD-WA-1  every field of status-now, over HTTP
//	DoD-WA-2  backoff: retryCount and nextRetryAt follow the table
//	DoD-WA-3  logged out: NEEDS_PAIRING, no timer, an incident with a runbook
//	DoD-WA-4  disconnected for too long: one incident, refreshed, resolved
//	DoD-WA-5  a reconnect loop: incident, lock released, exit code 1; then it works again
//
// The client is the real one; the service is simulated, and minutes are
// shortened by public options. With -url and -token it runs the part that only
// reads against a service of yours.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	url := flag.String("url", "", "check this running service, read-only, for example https://bot.example.com")
	token := flag.String("token", os.Getenv("WASTABILITY_ADMIN_TOKEN"), "its admin token; default: $WASTABILITY_ADMIN_TOKEN")
	backend := flag.String("backend", "local", "where the account lives: local, memory, firestore (its emulator, or the project of $GOOGLE_CLOUD_PROJECT) or postgres (a server of its own, or $DATABASE_URL)")
	flag.Parse()
	if os.Getenv(envChild) != "" {
		os.Exit(child(context.Background()))
	}
	os.Exit(run(*url, *token, *backend))
}

// run returns the exit code.
func run(url, token, backend string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r := &report{out: os.Stdout}
	switch {
	case url != "":
		remote(ctx, r, url, token)
		return r.summary()
	case backend == "firestore", backend == "postgres":
		start := startEmulator
		if backend == "postgres" {
			start = startPostgres
		}
		stop, err := start(ctx)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer stop()
	}
	all(ctx, r, parts{backend: backend})
	return r.summary()
}

// all runs every check. They share nothing and mostly wait, so they run at the
// same time. Each is reported whole, in the order of their ids.
func all(ctx context.Context, r *report, p parts) {
	var done []chan *report
	for _, c := range []struct {
		id, title string
		run       func(context.Context, *report, parts) error
	}{
		{"DoD-WA-1", "every field of status-now, over HTTP", statusNow},
		{"DoD-WA-2", "backoff follows the table, in status and in logs", backoff},
		{"DoD-WA-3", "logged out: pairing is needed, no timer runs, an incident says what to do", loggedOut},
		{"DoD-WA-4", "disconnected for too long: one incident, refreshed, resolved on return", stuck},
		{"DoD-WA-5", "a reconnect loop: incident, lock released, exit code 1, in this order; restarted, it works", loop},
	} {
		if p.only != "" && p.only != c.id {
			continue
		}
		result := make(chan *report, 1)
		done = append(done, result)
		go func() {
			var one *report
			err := errBusy
			for tries := 0; tries < 3 && errors.Is(err, errBusy); tries++ {
				one = &report{out: new(bytes.Buffer)}
				one.begin(c.id, c.title)
				err = c.run(ctx, one, p)
			}
			if err != nil {
				one.check("it could be tried", false, err.Error())
			}
			if ctx.Err() != nil {
				one.check("not interrupted", false, "")
			}
			result <- one
		}()
	}
	for _, result := range done {
		r.add(<-result)
	}
}
