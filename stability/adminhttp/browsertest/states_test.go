package browsertest

import (
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// refused lets the next login fail.
func refused(f wasim.Fault, why reconnect.Reason) func(*place) {
	return func(p *place) {
		p.run().pair()
		p.sim.Fault(f).OnNextLogin()
		p.m.Reconnect()
		p.disconnected(why)
	}
}

// ended ends the connection.
func ended(f wasim.Fault, why reconnect.Reason) func(*place) {
	return func(p *place) {
		p.run().pair()
		p.sim.Fault(f).For(p.account.JID()).Now()
		p.disconnected(why)
	}
}

// say sends a message to somebody new.
func (p *place) say(n int) error {
	c, err := p.sim.NewContact(p.t.Context(), "49152000000"+strconv.Itoa(2+n))
	require.NoError(p.t, err)
	_, err = p.m.Client().SendMessage(p.t.Context(), c.JID(), &waE2E.Message{Conversation: proto.String("hello")})
	return err
}

// hear gets a message from somebody.
func (p *place) hear() {
	c, err := p.sim.NewContact(p.t.Context(), "491520000009")
	require.NoError(p.t, err)
	_, err = c.Send(p.t.Context(), p.account.JID(), "hello")
	require.NoError(p.t, err)
}

// renewals asks for the lock often, so that a silent backend is noticed soon.
func renewals(lease time.Duration) stability.Option {
	return stability.WithLockOptions(lock.WithLease(lease), lock.WithRefresh(200*time.Millisecond), lock.WithMargin(100*time.Millisecond), lock.WithCallTimeout(200*time.Millisecond))
}

// with changes the policy.
func with(change func(*reconnect.Policy)) stability.Option {
	p := policy()
	change(&p)
	return stability.WithReconnect(p)
}

// states are what an operator may meet, and what leads there. The account is the
// same in all.
var states = []struct {
	name  string
	reach func(*place)
	opts  []stability.Option
}{
	{"not started", func(*place) {}, nil},
	{"connected", func(p *place) { p.run().pair().hear() }, nil},
	{"standby", func(p *place) {
		p.another().run().pair()
		p.run()
		p.await(func(st stability.Status) bool { return st.LockHolder == "wa-2" })
	}, nil},
	{"needs pairing", func(p *place) {
		p.run()
		p.await(func(st stability.Status) bool { return st.QRAvailable })
	}, nil},
	{"code to type", func(p *place) {
		p.run()
		_, err := p.m.PairPhone(p.t.Context(), "491520000001")
		require.NoError(p.t, err)
	}, nil},
	{"nobody asked for a code", func(p *place) {
		p.run()
		p.await(func(st stability.Status) bool { return st.Parked })
	}, []stability.Option{stability.WithPairingOnRequest()}},
	{"logged out", func(p *place) {
		p.run().pair()
		p.sim.Fault(wasim.DeviceRemoved()).For(p.account.JID()).Now()
		p.await(func(st stability.Status) bool {
			return st.QRAvailable && st.LastDisconnectReason == reconnect.ReasonLoggedOut
		})
	}, []stability.Option{with(func(p *reconnect.Policy) { p.InitialDelay = 10 * time.Millisecond })}},
	{"logged out, nobody asked", func(p *place) {
		p.run()
		_, err := p.m.WaitQR(p.t.Context())
		require.NoError(p.t, err)
		p.pair()
		p.sim.Fault(wasim.DeviceRemoved()).For(p.account.JID()).Now()
		p.await(func(st stability.Status) bool { return st.Parked })
	}, []stability.Option{stability.WithPairingOnRequest()}},
	{"connecting", func(p *place) {
		p.run().pair()
		p.sim.Fault(wasim.HelloDelay(time.Minute)).OnNextLogin()
		p.m.Reconnect()
		p.await(func(st stability.Status) bool { return st.WA != reconnect.StatusConnected && st.Connecting })
	}, nil},
	{"reconnecting", func(p *place) {
		p.run().pair()
		p.sim.Fault(wasim.Refused()).Always().Now()
		p.sim.Fault(wasim.Reset()).For(p.account.JID()).Now()
		p.disconnected(reconnect.ReasonConnectionClosed)
	}, nil},
	{"network unreachable", refused(wasim.Refused(), reconnect.ReasonNetworkUnreachable), nil},
	{"service unavailable", ended(wasim.StreamError("503"), reconnect.ReasonServiceUnavailable), nil},
	{"connection replaced", ended(wasim.Replaced(), reconnect.ReasonConnectionReplaced), nil},
	{"temporary ban", refused(wasim.TemporaryBan(101, time.Hour), reconnect.ReasonTemporaryBan), nil},
	{"account banned", refused(wasim.Failure(406), reconnect.ReasonAccountBanned), nil},
	{"account locked", refused(wasim.Failure(403), reconnect.ReasonAccountLocked), nil},
	{"client outdated", refused(wasim.Failure(405), reconnect.ReasonClientOutdated), nil},
	{"untrusted server", refused(wasim.WrongCertificate(), reconnect.ReasonUntrustedServer), nil},
	{"mute", func(p *place) {
		p.run().pair()
		p.sim.Fault(wasim.MessageNack(463)).For(p.account.JID()).Always().Now()
		for i := range 6 {
			require.ErrorIs(p.t, p.say(i), whatsmeow.ErrServerReturnedError)
		}
		p.await(func(st stability.Status) bool { return st.Probes.Health == keepalive.Mute })
	}, nil},
	{"handler hangs", func(p *place) {
		p.hang = make(chan struct{})
		p.t.Cleanup(func() { close(p.hang) })
		p.run().pair().hear()
		p.await(func(st stability.Status) bool { return st.Probes.Health == keepalive.Degraded })
	}, []stability.Option{stability.WithKeepalive(keepalive.Policy{HandlerAfter: 100 * time.Millisecond})}},
	{"messages refused", func(p *place) {
		p.refuse.Store(true)
		p.run().pair().hear()
		p.await(func(st stability.Status) bool { return len(p.m.Messages()) > 0 && p.m.Messages()[0].Tries > 0 })
	}, nil},
	{"store down while connected", func(p *place) {
		p.run().pair()
		p.broken.Store(true)
		p.await(func(st stability.Status) bool { return st.Heartbeats.Failures > 0 })
	}, []stability.Option{renewals(time.Minute)}},
	{"store down in standby", func(p *place) {
		p.broken.Store(true)
		p.run()
		p.await(func(st stability.Status) bool { return st.StoreUnavailable != nil })
	}, nil},
	{"lock lost", func(p *place) {
		p.run().pair()
		p.broken.Store(true)
		other := p.another(stability.WithLockOptions(lock.WithPoll(100 * time.Millisecond))).run() // keeps it for long
		other.await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected })
		p.broken.Store(false)
		p.await(func(st stability.Status) bool { return st.LockHolder == "wa-2" && st.StoreUnavailable == nil })
	}, []stability.Option{renewals(2 * time.Second)}},
	{"lock given up", func(p *place) {
		p.run().pair()
		p.sim.Fault(wasim.Refused()).Always().Now()
		p.m.Reconnect()
		p.await(func(st stability.Status) bool { return st.Mode == stability.ModeReleased })
	}, []stability.Option{with(func(p *reconnect.Policy) { p.YieldAfter, p.YieldSpacing = time.Millisecond, time.Minute })}},
	{"closed", func(p *place) {
		p.run().pair()
		p.stop()
	}, nil},
	{"passkey", func(p *place) {
		p.run()
		p.await(func(st stability.Status) bool { return st.QRAvailable })
		p.m.Client().DangerousInternals().DispatchEvent(&PairPasskeyRequest{})
		p.await(func(st stability.Status) bool { return st.PasskeyAsked })
	}, nil},
	{"run ended with an error", func(p *place) {
		p.setup = func() error { return errors.New("no table of answers: <b>answers.json</b> is missing") }
		p.run()
		p.await(func(st stability.Status) bool { return st.RunError != nil && st.Mode != stability.ModeActive })
	}, nil},
}

// PairPasskeyRequest has the name by which the event of newer versions of
// whatsmeow is known.
type PairPasskeyRequest struct{ PublicKey *struct{} }

// In every state the browser shows what the status says, to everybody: in the
// light and in the dark, on a phone, magnified, in forced colours, with a
// keyboard, with a screen reader, without JavaScript.
func TestEveryStateIsShownToEverybody(t *testing.T) {
	t.Parallel()
	for _, c := range states {
		t.Run(c.name, func(t *testing.T) {
			chromium(t)
			t.Parallel()
			p := newPlace(t, c.opts...)
			c.reach(p)
			b := newTab(t)
			p.enter(b)
			p.says(b)
			b.atOnce()
			b.usable()
			b.plain()
			p.says(b)
			b.calm()
		})
	}
}

// A text names moments, in UTC without a script and by the reader's clock with
// one, and it counts.
var (
	moments  = regexp.MustCompile(`\d\d:\d\d:\d\d UTC( on \d+ \w+ \d{4})?|(\d+/\d+/\d{4}, )?\d+:\d\d:\d\d\s[AP]M`)
	counting = regexp.MustCompile(`\d+(\.\d+)?`)
)

func still(s string) string {
	return spaces(counting.ReplaceAllString(moments.ReplaceAllString(s, "moment"), "#"))
}

// says checks that the page answers the operator's questions, in the words of
// the status.
func (p *place) says(b *tab) {
	b.t.Helper()
	a := p.answers()
	for id, text := range map[string]string{"why": a.ReasonText, "next": a.NextStep, "do": a.WhatToDo} {
		b.await(text, func() bool {
			shown := eval[string](b, `document.querySelector("main #`+id+`")?.innerText || ""`)
			return still(shown) == still(text)
		})
	}
	for _, id := range []string{"headline", "since"} {
		require.NotEmpty(b.t, eval[string](b, `document.querySelector("main #`+id+`").innerText`))
	}
	const labels = `[...document.querySelectorAll("#actions button")].map(b => b.innerText).filter(t => t)` // without those that are folded away
	const stands = `[...document.querySelectorAll("#actions button.main")].map(b => b.innerText)`
	for _, label := range eval[[]string](b, labels) {
		require.Equal(b.t, strings.Contains(a.WhatToDo, "ress "+label), slices.Contains(eval[[]string](b, stands), label),
			"%q stands out where the text says to press it, and only there: %s", label, a.WhatToDo)
	}
	require.NotRegexp(b.t, `/api/|/health|/ready|POST|GET `, b.text(), "a reader at night has no use for routes")
	require.NotContains(b.t, b.text(), "491520000001")
}
