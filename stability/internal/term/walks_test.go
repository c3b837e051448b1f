package term

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/reconnect"
)

// Walks that once broke an invariant, as the exploration printed them.
func TestWalksThatOnceBrokeAnInvariant(t *testing.T) {
	for name, walk := range map[string][]string{
		"a ban that becomes known late moves an attempt of the host's": {
			"device paired=false", "attach auto=false", "wait 1m0s", "schedule", "finish", "wait 20s", "host says temporary_ban",
			"finish", "loop", "finish", "wait 20m0s", "finish", "wait 100ms",
		},
		"a new client does not connect inside the ban": {
			"device paired=true", "attach auto=true", "host says temporary_ban", "attach auto=false", "loop", "finish", "schedule",
			"wait 20s", "finish", "wait 100ms",
		},
		"an account with a plan is not shown as parked": {
			"device paired=true", "attach auto=true", "host says service_unavailable", "wait 20m0s", "host says intentional", "finish",
			"socket", "host says service_unavailable", "wait 1s", "finish",
		},
		"no code of the old device is shown behind a restore": {
			"device paired=true", "attach auto=true", "socket", "device restored", "6 codes", "device paired=true", "wait 20m0s",
		},
		"no code is shown on a client that was given up": {
			"device paired=false", "attach auto=true", "host says pairing_failed", "loop", "socket", "6 codes", "fail",
			"device paired=true", "loop",
		},
		"a client that is being replaced makes no attempt": {
			"device paired=true", "attach auto=true", "ready", "socket", "attach begins", "loop", "finish", "loop", "finish", "loop",
			"finish", "wait 100ms",
		},
		"a device that was deleted before a client was attached is let go": {
			"device paired=true", "device deleted", "attach auto=false", "schedule", "wait 1m0s", "finish", "loop", "login sees=true",
			"socket", "finish", "loop", "finish", "wait 20s",
		},
		"a wish to reconnect is fulfilled by the next connection": {
			"device paired=true", "attach auto=true", "ready", "socket", "again", "socket", "host says intentional", "wait 1s", "finish",
			"wait 1s", "finish", "wait 1m0s", "finish", "wait 20s",
		},
		"the lock is given up behind a loop that could not be recorded": {
			"device paired=true", "attach auto=false", "schedule", "loop", "finish", "wait 1s", "finish", "wait 1m0s", "socket", "socket",
			"wait 1m0s", "finish", "wait 1m0s", "finish", "host says connect_rejected", "loop", "fail", "wait 1s", "finish", "wait 1s",
		},
		"codes for a wish that a login has met": {
			"codes on request", "device paired=true", "attach auto=false", "schedule", "socket", "login sees=false", "ask",
			"again by itself", "wait 100ms", "finish", "wait 1s", "finish", "loop", "finish", "wait 1s", "finish", "wait 1m0s", "fail",
			"device paired=false", "attach auto=true", "ready", "loop", "finish", "wait 1m0s", "finish", "loop",
		},
		"codes behind an end that the host has told of before it asked": {
			"codes on request", "device paired=false", "attach auto=true", "host says restart_required", "ready", "wait 1s",
			"finish", "wait 20s", "finish", "wait 100ms", "finish", "loop",
		},
	} {
		t.Run(name, func(t *testing.T) { require.Empty(t, playNamed(walk...)) })
	}
}

// The connection was lost, the next attempt is planned, and the account is handed
// over. The reason of the end becomes known only then.
func TestStreamError515BehindAnEndDuringAHandOver(t *testing.T) {
	c := New(config(), reconnect.State{}, origin)
	bring(t, c, origin, DeviceRead{Paired: true}, Attach{Client: 1, Auto: true}, Socket{Client: 1}, ToldLogin{Client: 1, Up: true},
		SocketGone{Conn: 1, Cause: cause(reconnect.ReasonConnectionClosed)}, CleanedUp{Conn: 1})
	require.False(t, c.View(origin, Sight{}).Planned.IsZero())
	bring(t, c, origin, Stop{Why: Why{Yielded: true}})
	require.Zero(t, c.View(origin, Sight{}).Planned)
	bring(t, c, origin, SawEnd{Client: 1, Cause: reconnect.Cause{Reason: reconnect.ReasonRestartRequired, Code: 515}},
		StepDown{Why: Why{Yielded: true}}, Retire{Client: 1})
	v := c.View(origin, Sight{})
	require.Equal(t, []any{Over, Leaving}, []any{v.Conn, v.Phase})
	require.Zero(t, v.Planned)
	require.Equal(t, reconnect.ReasonRestartRequired, v.State.LastDisconnectReason, "the better one of its reasons")
}

// An attempt is written down already, and a hand-over comes before it begins. Evidence
// about the connection before is about a trouble that the attempt has closed.
func TestReasonOfAnEndBehindARecordedAttemptCountsNothing(t *testing.T) {
	c := New(config(), reconnect.State{}, origin)
	now := origin
	bring(t, c, now, DeviceRead{Paired: true}, Attach{Client: 1, Auto: true}, Ready{Client: 1}, Socket{Client: 1}, ToldLogin{Client: 1, Up: true},
		SocketGone{Conn: 1, Cause: cause(reconnect.ReasonConnectionClosed)}, CleanedUp{Conn: 1}, Tick{Held: true}, SaveDone{})
	now = c.View(now, Sight{}).Planned
	bring(t, c, now, Tick{Held: true})
	require.Equal(t, Recorded, c.client.plan)
	was := c.State()
	bring(t, c, now, Stop{Why: Why{Yielded: true}}, SawEnd{Client: 1, Cause: cause(reconnect.ReasonLoggedOut)})
	require.Equal(t, was, c.State())
	require.Zero(t, c.View(now, Sight{}).Planned)
	bring(t, c, now, StepDown{Why: Why{Yielded: true}}, Retire{Client: 1}, SawEnd{Client: 1, Cause: cause(reconnect.ReasonAccountBanned)})
	require.Equal(t, was, c.State())
}

func TestStreamError515DuringAHandOver(t *testing.T) {
	c := New(config(), reconnect.State{}, origin)
	now := origin
	for _, e := range []Evidence{
		DeviceRead{Paired: true}, Attach{Client: 1, Auto: true}, Socket{Client: 1}, ToldLogin{Client: 1, Up: true},
		Stop{Why: Why{Yielded: true}},
	} {
		c.Handle(e, now)
	}
	require.True(t, c.Ready(true), "handlers may still answer")
	now = now.Add(time.Second)
	c.Handle(SawEnd{Client: 1, Cause: reconnect.Cause{Reason: reconnect.ReasonRestartRequired, Code: 515}}, now)
	require.Equal(t, Ended, c.View(now, Sight{}).Conn)
	c.Handle(StepDown{Why: Why{Yielded: true}}, now)
	c.Handle(Retire{Client: 1}, now)
	v := c.View(now, Sight{})
	require.Equal(t, []any{Over, Leaving}, []any{v.Conn, v.Phase})
	require.Zero(t, v.Planned)
	require.Equal(t, reconnect.ReasonHandedOver, v.State.LastDisconnectReason)
	require.IsType(t, TearDown{}, c.Handle(Tick{Held: true}, now)[0], "the hand-over goes on")
}

// bring gives evidence to a Core whose client is Run's, and lets what is due
// happen in between.
func bring(t *testing.T, c *Core, now time.Time, evidence ...Evidence) (news []News) {
	t.Helper()
	for _, e := range evidence {
		for _, f := range c.Handle(e, now) {
			if a, ok := f.(Announce); ok {
				news = append(news, a.What)
			}
		}
		require.NoError(t, c.Fault())
	}
	return news
}

// The device that is offered to a phone is put back behind the scenes by a
// restore: nobody is asked for anything, and nothing waits for somebody to ask.
func TestRestoreWhileACodeIsShownParksNothing(t *testing.T) {
	c := New(config(), reconnect.State{}, origin)
	bring(t, c, origin, DeviceRead{}, Attach{Client: 1, Auto: true}, Socket{Client: 1}, Codes{Client: 1, Codes: make([]string, 6), Up: true})
	require.Equal(t, Offering, c.View(origin, Sight{Up: true}).Conn)
	news := bring(t, c, origin, DeviceRestored{}, CleanedUp{Conn: 1})
	require.False(t, c.Parked())
	require.Equal(t, []News{NewsDisconnected}, news)
}

// The goroutine of whatsmeow's that reads a stream error may be the last to run: the
// socket is known to be gone by then, and the client is being brought to its end.
func TestReasonThatIsReadBehindTheEndOfItsSocketIsHeard(t *testing.T) {
	for _, r := range []reconnect.Reason{reconnect.ReasonRestartRequired, reconnect.ReasonConnectionReplaced, reconnect.ReasonLoggedOut} {
		c := New(config(), reconnect.State{}, origin)
		bring(t, c, origin, DeviceRead{Paired: true}, Attach{Client: 1, Auto: true}, Socket{Client: 1}, ToldLogin{Client: 1, Up: true},
			SocketGone{Conn: 1, Cause: cause(reconnect.ReasonConnectionClosed)},
			SawEnd{Client: 1, Cause: cause(r), Behind: true}, CleanedUp{Conn: 1}, LockAsked{Conn: 1})
		_, got, _ := c.End()
		require.Equal(t, r, got.Reason)
	}
}

// The remains of one connection say nothing of the next.
func TestReasonOfAnEarlierConnectionEndsNone(t *testing.T) {
	c := New(config(), reconnect.State{}, origin)
	bring(t, c, origin, DeviceRead{Paired: true}, Attach{Client: 1, Auto: true}, Socket{Client: 1}, ToldLogin{Client: 1, Up: true},
		SawEnd{Client: 1, Cause: cause(reconnect.ReasonConnectionReplaced), Behind: true})
	require.True(t, c.Ready(true))
}

// Somebody may ask before the loop has looked for the first time.
func TestClientThatHasNotBeenLookedAtIsDown(t *testing.T) {
	c := New(config(), reconnect.State{}, origin)
	bring(t, c, origin, DeviceRead{Paired: true}, Attach{Client: 1, Auto: true})
	v, _ := c.Health(keepalive.Observation{}, origin, Sight{})
	require.Equal(t, keepalive.Down, v.Health)
}

func TestSlowAnswerAboutTheLockDelaysNoNews(t *testing.T) {
	c := New(config(), reconnect.State{}, origin)
	bring(t, c, origin, DeviceRead{Paired: true}, Attach{Client: 1, Auto: true}, Socket{Client: 1}, ToldLogin{Client: 1, Up: true},
		SawEnd{Client: 1, Cause: reconnect.Cause{Reason: reconnect.ReasonConnectionReplaced}}, CleanedUp{Conn: 1})
	require.Equal(t, Drained, c.View(origin, Sight{}).Conn)
	require.Equal(t, []News{NewsDisconnected}, bring(t, c, origin, Late{Conn: 1}))
	require.NotContains(t, bring(t, c, origin, LockAsked{Conn: 1}), NewsDisconnected)
}

// By hand, an attempt that was planned because nobody told the host of an end is
// the host's again once it knows, also when it is being written down.
func TestHostThatLearnsOfAnEndTakesItsAttemptBack(t *testing.T) {
	c := New(config(), reconnect.State{}, origin)
	bring(t, c, origin, DeviceRead{Paired: true}, Attach{Client: 1}, Schedule{At: origin})
	now := origin
	for range 20 { // save, record, save, connect
		now = now.Add(time.Second)
		for _, f := range c.Handle(Tick{Held: true}, now) {
			if _, ok := f.(SaveState); ok {
				bring(t, c, now, SaveDone{})
			}
		}
	}
	bring(t, c, now, Socket{Client: 1}, CallReturned{Conn: 1, Up: true}, ToldLogin{Client: 1, Up: true},
		SocketGone{Conn: 1, Cause: reconnect.Cause{Reason: reconnect.ReasonConnectionClosed}}, CleanedUp{Conn: 1})
	require.Equal(t, Unasked, c.client.plan)
	for c.client.plan != Recorded {
		now = now.Add(time.Second)
		for _, f := range c.Handle(Tick{Held: true}, now) {
			if _, ok := f.(SaveState); ok && c.client.plan != Recorded {
				bring(t, c, now, SaveDone{})
			}
		}
	}
	bring(t, c, now, HostEnd{Cause: reconnect.Cause{Reason: reconnect.ReasonConnectionClosed}})
	require.Equal(t, NoPlan, c.client.plan)
}

// Behind a handler that is stuck the client is given up, and Run may make the
// next one at once: it must find that the account waits for a person.
func TestClientGivenUpBehindABanParksTheAccountAtOnce(t *testing.T) {
	c := New(config(), reconnect.State{}, origin)
	bring(t, c, origin, DeviceRead{Paired: true}, Attach{Client: 1, Auto: true}, Socket{Client: 1}, ToldLogin{Client: 1, Up: true},
		SawEnd{Client: 1, Cause: reconnect.Cause{Reason: reconnect.ReasonAccountBanned}})
	require.Equal(t, []News{NewsDisconnected, NewsNeedsPairing}, bring(t, c, origin, GivenUp{Client: 1, Shut: true}))
	require.True(t, c.Parked())
	bring(t, c, origin, DeviceRead{}, Attach{Client: 2, Auto: true}, CleanedUp{Conn: 1}, Ready{Client: 2})
	require.True(t, c.Parked())
	require.Zero(t, c.View(origin, Sight{}).Planned)
}

// fails plays attempts of Run's client that fail for a reason at once, until the
// lock is given up or the time is over. It returns when each of them began.
func fails(t *testing.T, c *Core, r reconnect.Reason, from time.Time, atMost time.Duration) (attempts []time.Time, until []time.Time, end time.Time) {
	t.Helper()
	for now := from; now.Before(from.Add(atMost)); now = now.Add(100 * time.Millisecond) {
		for again := true; again; {
			again = false
			for _, f := range c.Handle(Tick{Held: true}, now) {
				again = true
				switch f := f.(type) {
				case SaveState:
					bring(t, c, now, SaveDone{})
				case Connect:
					attempts, until = append(attempts, now), append(until, f.Until)
					bring(t, c, now, CallReturned{Conn: f.Conn, Failed: true, Ends: true, Cause: cause(r)})
				case CleanUp:
					bring(t, c, now, CleanedUp{Conn: f.Conn})
				}
			}
			require.NoError(t, c.Fault())
			if c.phase == Yielding {
				return attempts, until, now
			}
			if next := c.Next(now); next.IsZero() || next.After(now) {
				break
			}
			again = true
		}
	}
	return attempts, until, from.Add(atMost)
}

func begun(t *testing.T, st reconnect.State, again bool) *Core {
	cfg := config()
	cfg.Healer = autoheal.New(autoheal.Policy{Disabled: true})
	cfg.Again = again
	c := New(cfg, st, origin)
	bring(t, c, origin, DeviceRead{Paired: true}, Attach{Client: 1, Auto: true}, Ready{Client: 1})
	return c
}

func TestLockIsGivenUpTwoMinutesAfterTheFirstFailure(t *testing.T) {
	c := begun(t, reconnect.State{}, false)
	attempts, until, end := fails(t, c, reconnect.ReasonNetworkUnreachable, origin, time.Hour)
	require.Equal(t, attempts[0].Add(2*time.Minute), end)
	require.Zero(t, until[0], "nothing has failed yet")
	for i, at := range attempts[1:] {
		require.False(t, until[i+1].Before(at.Add(leastTry)))
		require.False(t, until[i+1].Before(end))
	}
	y, _ := c.State().LastYield()
	require.Equal(t, []any{"a", reconnect.ReasonNetworkUnreachable, 1, false}, []any{y.By, y.Reason, y.Count, y.Stopped})
	bring(t, c, end, LoopTold{})
	why, graceful := c.Why()
	require.True(t, why.Unfit && graceful)
}

func TestLockIsGivenUpAtOnceWhereAttemptsWouldStop(t *testing.T) {
	for _, r := range []reconnect.Reason{reconnect.ReasonUntrustedServer, reconnect.ReasonClientOutdated, reconnect.ReasonConnectRejected} {
		c := begun(t, reconnect.State{}, false)
		attempts, _, end := fails(t, c, r, origin, time.Hour)
		require.Equal(t, attempts[0], end)
		d, _, _ := c.End()
		require.Equal(t, reconnect.ActionStandby, d.Action)
		y, _ := c.State().LastYield()
		require.Equal(t, r == reconnect.ReasonUntrustedServer, y.Stopped)
	}
}

func TestAttemptUnderWayIsOverdueAndItsBackoffGoesOn(t *testing.T) {
	c := begun(t, reconnect.State{}, false)
	fails(t, c, reconnect.ReasonNetworkUnreachable, origin, time.Minute)
	now := origin.Add(time.Minute)
	for c.conn.phase&live == 0 {
		now = now.Add(time.Second)
		for _, f := range c.Handle(Tick{Held: true}, now) {
			if _, ok := f.(SaveState); ok {
				bring(t, c, now, SaveDone{})
			}
		}
	}
	bring(t, c, now, Overdue{Conn: c.conn.number})
	d, cause, ended := c.End()
	require.True(t, ended)
	require.Equal(t, reconnect.ReasonTimedOut, cause.Reason)
	require.True(t, d.NextRetryAt.After(now), "whoever takes the lock back waits")
}

func TestReasonsOfTheServiceKeepTheLock(t *testing.T) {
	for _, r := range []reconnect.Reason{
		reconnect.ReasonServiceUnavailable, reconnect.ReasonConnectionClosed, reconnect.ReasonBadSession, reconnect.ReasonConnectionReplaced,
	} {
		_, _, end := fails(t, begun(t, reconnect.State{}, false), r, origin, time.Hour)
		require.Equal(t, origin.Add(time.Hour), end, r)
	}
}
