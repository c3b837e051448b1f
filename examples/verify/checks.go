package main

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// fields are what status-now must always have.
var fields = map[string][]string{
	"": {"success", "timestamp", "wa", "state", "config", "heartbeats", "probes"},
	"wa": {
		"waMode", "waStatus", "connectedAt", "lastDisconnectAt", "lastDisconnectReason", "retryCount", "nextRetryAt",
		"authStore", "authStateExists", "authKeyCount", "lastAuthWriteAt", "lockHolder", "lockLeaseUntil", "leaseEpoch",
		"lastEventAt", "lastMessageAt", "timeSinceLastEventMs", "isStale",
	},
}

// checkFields looks at one answer of status-now.
func checkFields(r *report, d document) {
	for _, part := range []string{"", "wa"} {
		of := map[string]any(d)
		where := "the answer"
		if part != "" {
			of, _ = d[part].(map[string]any)
			where = part
		}
		var absent []string
		for _, name := range fields[part] {
			if _, ok := of[name]; !ok {
				absent = append(absent, name)
			}
		}
		r.check(where+" has every field", len(absent) == 0, strings.Join(absent, ", "))
	}
	r.checkf("success is true", d["success"] == true, "%v", d["success"])
	r.checkf("timestamp is the present", math.Abs(time.Since(d.time("timestamp")).Seconds()) < 60, "%v", d["timestamp"])
	mode, status := d.at("wa", "waMode"), d.at("wa", "waStatus")
	r.checkf("waMode is one of three words", slices.Contains([]any{"active", "passive_lock_not_acquired", "passive_lock_released"}, mode), "%v", mode)
	r.checkf("waStatus is one of three words", slices.Contains([]any{"CONNECTED", "DISCONNECTED", "NEEDS_PAIRING"}, status), "%v", status)
	if status == "CONNECTED" {
		r.check("connected means: since when, and no retry planned",
			!d.time("wa", "connectedAt").IsZero() && d.at("wa", "nextRetryAt") == nil, "")
	}
}

func statusNow(ctx context.Context, r *report, p parts) error {
	s, err := open(ctx, p)
	if err != nil {
		return err
	}
	defer s.close()
	d, err := s.status(ctx)
	if err != nil {
		return err
	}
	checkFields(r, d)
	r.checkf("it is active and connected", d.at("wa", "waMode") == "active" && d.at("wa", "waStatus") == "CONNECTED", "%v, %v", d.at("wa", "waMode"), d.at("wa", "waStatus"))
	r.checkf("the holder and its epoch are named", d.at("wa", "lockHolder") != "" && d.at("wa", "leaseEpoch") == 1.0, "%v, %v", d.at("wa", "lockHolder"), d.at("wa", "leaseEpoch"))
	r.checkf("the session is counted", d.at("wa", "authStateExists") == true && d.at("wa", "authStore") == p.backend, "%v entries in %v", d.at("wa", "authKeyCount"), d.at("wa", "authStore"))
	r.checkf("nothing is stale", d.at("wa", "isStale") == false, "%v", d.at("wa", "isStale"))
	_, err = get(ctx, s.url, "wrong-token-wrong-token", "/api/longrun/status-now")
	r.check("a wrong token is refused", err != nil && strings.Contains(err.Error(), "401"), "")
	resp, err := http.Get(s.url + "/health")
	if err == nil {
		resp.Body.Close()
	}
	r.check("/health answers without a token", err == nil && resp.StatusCode == http.StatusOK, "")
	return nil
}

// remote is the read-only part, against somebody's service.
func remote(ctx context.Context, r *report, url, token string) {
	r.begin("DoD-WA-1", "every field of status-now, over HTTP, of "+url)
	d, err := get(ctx, strings.TrimRight(url, "/"), token, "/api/longrun/status-now")
	if !r.check("it answers", err == nil, fmt.Sprint(err)) {
		return
	}
	checkFields(r, d)
}

func backoff(ctx context.Context, r *report, p parts) (err error) {
	s, err := open(ctx, p)
	if err != nil {
		return err
	}
	defer s.close()
	defer func() { err = s.orBusy(r, err) }()
	time.Sleep(policy.StableAfter + 100*time.Millisecond) // else the series goes on
	before := len(s.log.find("disconnected"))
	refused := s.service.Fault(wasim.Refused()).From("host").Always().OnNextLogin()
	s.service.Fault(wasim.FIN()).For(s.account.JID()).Now()
	const retries = 4 // two that grow, and two that may not grow further
	for n := 1; n <= retries; n++ {
		want := min(policy.InitialDelay<<(n-1), policy.MaxDelay)
		var d document
		reached := s.await(ctx, policy.MaxDelay+3*time.Second, func() bool {
			d, err = s.status(ctx)
			return err == nil && d.at("wa", "retryCount") == float64(n) && d.at("wa", "nextRetryAt") != nil
		})
		if !r.checkf(fmt.Sprintf("retry %d is planned", n), reached, "retryCount %v", d.at("wa", "retryCount")) {
			return nil
		}
		got := d.time("wa", "nextRetryAt").Sub(d.time("wa", "lastDisconnectAt"))
		r.checkf(fmt.Sprintf("retry %d waits %s ±20 %%", n, want), within(got, want), "%s", got)
		var lines []line
		logged := await(ctx, 5*time.Second, func() bool { lines = s.log.find("disconnected"); return len(lines) >= before+n })
		if r.check(fmt.Sprintf("retry %d is in the log", n), logged, "") {
			l := lines[before+n-1]
			r.checkf("with the same numbers", l.attrs["attempt"].Int64() == int64(n) && within(l.attrs["delay"].Duration(), want),
				"attempt %s, delay %s", l.attrs["attempt"], l.attrs["delay"])
		}
	}
	refused.Stop()
	back := s.await(ctx, policy.MaxDelay+3*time.Second, func() bool {
		d, err := s.status(ctx)
		return err == nil && d.at("wa", "waStatus") == "CONNECTED" && d.at("wa", "nextRetryAt") == nil
	})
	r.check("it comes back, and no retry is planned any more", back, "")
	return nil
}

// within allows the jitter of ±20 %, and the millisecond that a reader loses.
func within(got, want time.Duration) bool {
	slack := want/5 + 2*time.Millisecond
	return got >= want-slack && got <= want+slack
}

func loggedOut(ctx context.Context, r *report, p parts) error {
	s, err := open(ctx, p)
	if err != nil {
		return err
	}
	defer s.close()
	id := guard.TypeLoggedOut.ActiveID()
	s.away.Store(true)
	for _, d := range s.account.Devices() {
		s.account.Phone().RemoveDevice(d)
	}
	var d, inc document
	seen := await(ctx, 10*time.Second, func() bool {
		d, err = s.status(ctx)
		return err == nil && d.at("wa", "waStatus") == "NEEDS_PAIRING"
	})
	if r.check("waStatus is NEEDS_PAIRING", seen, "") {
		r.checkf("the reason is logged_out", d.at("wa", "lastDisconnectReason") == "logged_out", "%v", d.at("wa", "lastDisconnectReason"))
		// The attempt that fetches a code to scan is planned for a moment.
		quiet := await(ctx, 5*time.Second, func() bool {
			now, err := s.status(ctx)
			if err == nil {
				d = now
			}
			return err == nil && d.at("wa", "waStatus") == "NEEDS_PAIRING" && d.at("wa", "nextRetryAt") == nil
		})
		r.checkf("no timer: nextRetryAt is null", quiet, "%v", d.at("wa", "nextRetryAt"))
	}
	found := await(ctx, 10*time.Second, func() bool { inc, err = s.incident(ctx, id); return inc != nil })
	if r.check("there is an incident "+id, found, "") {
		runbook, _ := inc.at("runbook").(string)
		instructions, _ := inc.at("instructions").(string)
		r.check("with instructions and a runbook", len(runbook) > 40 && instructions != "", instructions)
	}
	s.away.Store(false)
	again := await(ctx, 10*time.Second, func() bool {
		if code, ok := s.manager.QR(); ok { // it was offered while the phone was away
			s.scan(code.Code)
		}
		return s.connected(ctx)
	})
	r.check("a second scan pairs it again, in the same process", again, "")
	over := await(ctx, 10*time.Second, func() bool { inc, err = s.incident(ctx, id); return inc != nil && inc.at("active") == false })
	r.check("and the incident is resolved", over, "")
	return nil
}

func stuck(ctx context.Context, r *report, p parts) (err error) {
	s, err := open(ctx, p)
	if err != nil {
		return err
	}
	defer s.close()
	defer func() { err = s.orBusy(r, err) }()
	id := guard.TypeDisconnectStuck.ActiveID()
	var first time.Time
	for _, outage := range []string{"first", "second"} {
		var inc document
		active := func() bool {
			inc, err = s.incident(ctx, id)
			return inc != nil && inc.at("active") == true
		}
		over := func() bool {
			inc, err = s.incident(ctx, id)
			return inc != nil && inc.at("active") == false && inc.at("resolvedAt") != nil
		}
		var refused *wasim.Injection
		var start time.Time
		raised := false
		for range 5 {
			s.await(ctx, 10*time.Second, func() bool { return s.connected(ctx) })
			refused = s.service.Fault(wasim.Refused()).From("host").Always().OnNextLogin()
			start = time.Now()
			s.service.Fault(wasim.FIN()).For(s.account.JID()).Now()
			raised = s.await(ctx, care.StuckAfter+3*time.Second, active)
			if !raised || inc.time("detectedAt").After(start) {
				break
			}
			// On a slow machine the login after the pairing takes so long that it is an
			// outage itself, and this is its incident. It has to be over first.
			refused.Stop()
			if !s.await(ctx, 10*time.Second, over) {
				break
			}
		}
		if !r.check("the "+outage+" outage raises "+id, raised, "") {
			return nil
		}
		r.checkf("not before its time", time.Since(start) >= care.StuckAfter, "after %s", time.Since(start).Round(10*time.Millisecond))
		if outage == "first" {
			first = inc.time("firstDetectedAt")
			list, err := get(ctx, s.url, s.token, "/api/longrun/incidents")
			all, _ := list["incidents"].([]any)
			r.checkf("it is one incident", err == nil && len(all) == 1, "%d", len(all))
			var seen []time.Time
			s.await(ctx, 4*care.Refresh, func() bool {
				if inc, err = s.incident(ctx, id); inc != nil {
					if at := inc.time("lastCheckedAt"); len(seen) == 0 || at.After(seen[len(seen)-1]) {
						seen = append(seen, at)
					}
				}
				return len(seen) >= 3
			})
			moves := len(seen) >= 3
			for i := 1; moves && i < len(seen); i++ {
				gap := seen[i].Sub(seen[i-1])
				moves = gap >= care.Refresh*9/10 && gap < 2*care.Refresh
			}
			r.checkf("lastCheckedAt moves with every refresh", moves, "%d times seen, one every %s", len(seen), care.Refresh)
		} else {
			r.check("it is the same incident, opened again", inc.time("firstDetectedAt").Equal(first) && inc.time("detectedAt").After(first), "")
		}
		refused.Stop()
		if !r.check("it is resolved on return", s.await(ctx, policy.MaxDelay+3*time.Second, over), "") {
			return nil // another outage would say nothing new
		}
	}
	return nil
}
