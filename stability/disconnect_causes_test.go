package stability_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// Every cause that ends a live connection: the right reason, the right status,
// and exactly one login afterwards, or none.
func TestEveryEndOfALiveConnectionHasItsReasonItsStatusAndItsAction(t *testing.T) {
	for _, c := range []struct {
		name   string
		fault  wasim.Fault
		reason reconnect.Reason
		status reconnect.Status
		comes  bool          // back by itself
		least  time.Duration // not before that
		most   time.Duration // not after that
	}{
		{"TCP reset", wasim.Reset(), reconnect.ReasonConnectionClosed, reconnect.StatusDisconnected, true, 800 * time.Millisecond, 1300 * time.Millisecond},
		{"end of file", wasim.FIN(), reconnect.ReasonConnectionClosed, reconnect.StatusDisconnected, true, 800 * time.Millisecond, 1300 * time.Millisecond},
		{"websocket close", wasim.WebsocketClose(1001), reconnect.ReasonConnectionClosed, reconnect.StatusDisconnected, true, 800 * time.Millisecond, 1300 * time.Millisecond},
		{"stream end without close", wasim.StreamEnd(), reconnect.ReasonConnectionClosed, reconnect.StatusDisconnected, true, 800 * time.Millisecond, 1300 * time.Millisecond},
		{"stream error 515", wasim.StreamError("515"), reconnect.ReasonRestartRequired, reconnect.StatusDisconnected, true, 0, 300 * time.Millisecond},
		{"stream error 503", wasim.StreamError("503"), reconnect.ReasonServiceUnavailable, reconnect.StatusDisconnected, true, 30 * time.Second, 37 * time.Second},
		{"stream error 500", wasim.StreamError("500"), reconnect.ReasonBadSession, reconnect.StatusDisconnected, true, 800 * time.Millisecond, 1300 * time.Millisecond},
		{"stream error without code", wasim.StreamError(""), reconnect.ReasonBadSession, reconnect.StatusDisconnected, true, 800 * time.Millisecond, 1300 * time.Millisecond},
		{"bare stream error 401", wasim.StreamError("401"), reconnect.ReasonBadSession, reconnect.StatusDisconnected, true, 800 * time.Millisecond, 1300 * time.Millisecond},
		{"replaced", wasim.Replaced(), reconnect.ReasonConnectionReplaced, reconnect.StatusDisconnected, true, 96 * time.Second, 145 * time.Second},
		{"black hole", wasim.BlackHole(), reconnect.ReasonConnectionLost, reconnect.StatusDisconnected, true, 0, time.Second},
		{"silence", wasim.Silence(), reconnect.ReasonConnectionLost, reconnect.StatusDisconnected, true, 0, time.Second},
		{"device removed", wasim.DeviceRemoved(), reconnect.ReasonLoggedOut, reconnect.StatusNeedsPairing, false, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			someUnderRace(t)
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.instance().run().pair()
				time.Sleep(2 * time.Minute) // a stable connection
				a.forget()
				device := w.device()
				before := device.Stats().Logins
				start := time.Now()
				injected := w.sim.Fault(c.fault).For(w.account.JID())
				injected.Now()

				e := a.reached(1, stability.EventDisconnected)
				require.Equal(t, c.reason, e.Reason)
				require.Equal(t, c.status, e.Decision.Status)
				require.Equal(t, c.comes, e.Decision.ShouldReconnect)
				require.Equal(t, c.comes, !e.Decision.NextRetryAt.IsZero())
				if e.Reason == reconnect.ReasonConnectionLost {
					require.Less(t, time.Since(start), 90*time.Second, "noticed in time")
					injected.Stop()
				}
				ended := e.Time
				if !c.comes {
					time.Sleep(10 * time.Minute)
					require.Equal(t, before, device.Stats().Logins)
					require.Equal(t, reconnect.StatusNeedsPairing, a.status().WA)
					require.Zero(t, a.status().NextRetryAt)
					require.NotEmpty(t, a.codes, "Run offers a new code")
				} else {
					back := a.reached(1, stability.EventConnected)
					require.Equal(t, before+1, device.Stats().Logins, "exactly one login")
					require.GreaterOrEqual(t, back.Time.Sub(ended), c.least-50*time.Millisecond)
					require.LessOrEqual(t, back.Time.Sub(ended), c.most)
					time.Sleep(5 * time.Minute)
					require.Equal(t, before+1, device.Stats().Logins, "and no other afterwards")
					require.Equal(t, reconnect.StatusConnected, a.status().WA)
				}
				a.stop()
				w.sim.Close()
			})
		})
	}
}

// Every way in which a login or an attempt is refused.
func TestEveryRefusalHasItsReasonItsStatusAndItsAction(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		fault  wasim.Fault
		reason reconnect.Reason
		status reconnect.Status
		comes  bool
		least  time.Duration
		most   time.Duration
		codes  bool // a new code is offered without being asked
	}{
		{"refused", wasim.Refused(), reconnect.ReasonNetworkUnreachable, reconnect.StatusDisconnected, true, 1600 * time.Millisecond, 2500 * time.Millisecond, false},
		{"dial without answer", wasim.DialHang(), reconnect.ReasonTimedOut, reconnect.StatusDisconnected, true, 1600 * time.Millisecond, 2500 * time.Millisecond, false},
		{"TLS without answer", wasim.TLSHang(), reconnect.ReasonTimedOut, reconnect.StatusDisconnected, true, 1600 * time.Millisecond, 2500 * time.Millisecond, false},
		{"wrong TLS certificate", wasim.WrongTLSCertificate(), reconnect.ReasonNetworkUnreachable, reconnect.StatusDisconnected, true, 1600 * time.Millisecond, 2500 * time.Millisecond, false},
		{"upgrade without answer", wasim.UpgradeHang(), reconnect.ReasonTimedOut, reconnect.StatusDisconnected, true, 1600 * time.Millisecond, 2500 * time.Millisecond, false},
		{"upgrade 403", wasim.UpgradeStatus(403), reconnect.ReasonServiceUnavailable, reconnect.StatusDisconnected, true, 30 * time.Second, 37 * time.Second, false},
		{"upgrade 429", wasim.UpgradeStatus(429), reconnect.ReasonServiceUnavailable, reconnect.StatusDisconnected, true, 30 * time.Second, 37 * time.Second, false},
		{"upgrade 503", wasim.UpgradeStatus(503), reconnect.ReasonServiceUnavailable, reconnect.StatusDisconnected, true, 30 * time.Second, 37 * time.Second, false},
		{"wrong Noise certificate", wasim.WrongCertificate(), reconnect.ReasonUntrustedServer, reconnect.StatusDisconnected, false, 0, 0, false},
		{"hello never comes", wasim.HelloDelay(time.Hour), reconnect.ReasonTimedOut, reconnect.StatusDisconnected, true, 1600 * time.Millisecond, 2500 * time.Millisecond, false},
		{"drop in the handshake", wasim.HandshakeDrop(), reconnect.ReasonConnectionClosed, reconnect.StatusDisconnected, true, 1600 * time.Millisecond, 2500 * time.Millisecond, false},
		{"drop right after success", wasim.DropAfterSuccess(), reconnect.ReasonConnectionClosed, reconnect.StatusDisconnected, true, 1600 * time.Millisecond, 2500 * time.Millisecond, false},
		{"failure 401", wasim.Failure(401), reconnect.ReasonLoggedOut, reconnect.StatusNeedsPairing, false, 0, 0, true},
		{"failure 403", wasim.Failure(403), reconnect.ReasonAccountLocked, reconnect.StatusNeedsPairing, false, 0, 0, false},
		{"failure 406", wasim.Failure(406), reconnect.ReasonAccountBanned, reconnect.StatusNeedsPairing, false, 0, 0, false},
		{"failure 402", wasim.TemporaryBan(101, time.Hour), reconnect.ReasonTemporaryBan, reconnect.StatusDisconnected, true, time.Hour, time.Hour + time.Minute, false},
		{"failure 402 without a time", wasim.TemporaryBan(101, 0), reconnect.ReasonTemporaryBan, reconnect.StatusDisconnected, true, 24 * time.Hour, 24*time.Hour + time.Minute, false},
		{"failure 405", wasim.Failure(405), reconnect.ReasonClientOutdated, reconnect.StatusDisconnected, true, 12 * time.Minute, 18*time.Minute + time.Second, false},
		{"failure 413", wasim.Failure(413), reconnect.ReasonConnectRejected, reconnect.StatusDisconnected, true, 12 * time.Minute, 18*time.Minute + time.Second, false},
		{"failure 500", wasim.Failure(500), reconnect.ReasonBadSession, reconnect.StatusDisconnected, true, 1600 * time.Millisecond, 2500 * time.Millisecond, false},
		{"failure 503", wasim.Failure(503), reconnect.ReasonServiceUnavailable, reconnect.StatusDisconnected, true, 30 * time.Second, 37 * time.Second, false},
		{"failure 400", wasim.Failure(400), reconnect.ReasonConnectRejected, reconnect.StatusDisconnected, true, 12 * time.Minute, 18*time.Minute + time.Second, false},
		{"failure 409", wasim.Failure(409), reconnect.ReasonConnectRejected, reconnect.StatusDisconnected, true, 12 * time.Minute, 18*time.Minute + time.Second, false},
		{"failure 411", wasim.Failure(411), reconnect.ReasonConnectRejected, reconnect.StatusDisconnected, true, 12 * time.Minute, 18*time.Minute + time.Second, false},
		{"failure 414", wasim.Failure(414), reconnect.ReasonConnectRejected, reconnect.StatusDisconnected, true, 12 * time.Minute, 18*time.Minute + time.Second, false},
		{"failure 415", wasim.Failure(415), reconnect.ReasonConnectRejected, reconnect.StatusDisconnected, true, 12 * time.Minute, 18*time.Minute + time.Second, false},
		{"failure 418", wasim.Failure(418), reconnect.ReasonConnectRejected, reconnect.StatusDisconnected, true, 12 * time.Minute, 18*time.Minute + time.Second, false},
		{"failure 501", wasim.Failure(501), reconnect.ReasonConnectRejected, reconnect.StatusDisconnected, true, 12 * time.Minute, 18*time.Minute + time.Second, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			someUnderRace(t)
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.instance(keepsTheLock).run().pair() // what it plans is its own next attempt
				time.Sleep(2 * time.Minute)
				a.forget()
				device := w.device()
				before := device.Stats().Logins
				w.sim.Fault(c.fault).OnNextLogin()
				w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
				a.reached(1, stability.EventDisconnected)
				e := a.reached(2, stability.EventDisconnected)
				require.Equal(t, c.reason, e.Reason, "%+v", e)
				require.Equal(t, c.status, e.Decision.Status)
				require.Equal(t, c.comes, e.Decision.ShouldReconnect)
				require.Equal(t, c.comes, !e.Decision.NextRetryAt.IsZero())
				if c.comes {
					require.WithinDuration(t, e.Decision.NextRetryAt, a.status().NextRetryAt, 0)
					back := a.reached(1, stability.EventConnected)
					require.False(t, back.Time.Before(e.Decision.NextRetryAt), "not before its time")
					require.GreaterOrEqual(t, back.Time.Sub(e.Time), c.least-50*time.Millisecond)
					require.LessOrEqual(t, back.Time.Sub(e.Time), c.most)
					time.Sleep(5 * time.Minute)
					require.Equal(t, reconnect.StatusConnected, a.status().WA)
				} else {
					time.Sleep(time.Hour)
					require.Equal(t, c.status, a.status().WA)
					require.Zero(t, a.status().NextRetryAt)
					require.Equal(t, c.codes, len(a.codes) > 0, "codes to scan")
				}
				require.LessOrEqual(t, device.Stats().Logins, before+2)
				a.stop()
				w.sim.Close()
			})
		})
	}
}

// A device that could not be saved is of no use: the pairing is made anew, with
// nothing of it left.
func TestAPairingThatTheStoreDoesNotTakeIsMadeAnew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a").run()
		first := <-a.codes
		a.wire.fail(only("commit"))
		require.NoError(t, w.account.Phone().Scan(first.Code))
		time.Sleep(2 * time.Minute)
		require.Empty(t, a.history(stability.EventConnected))
		require.NotEqual(t, reconnect.StatusConnected, a.status().WA)
		a.wire.heal()
		for len(a.codes) > 0 {
			<-a.codes
		}
		a.pair()
		time.Sleep(2 * time.Minute)
		require.Equal(t, reconnect.StatusConnected, a.status().WA)
		_, err := w.say("it works")
		require.NoError(t, err)
		w.await("the message", func() bool { return len(a.texts()) == 1 })
		a.stop()
		w.close()
	})
}
