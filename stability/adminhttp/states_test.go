package adminhttp_test

import (
	"flag"
	"slices"
	"strconv"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

var update = flag.Bool("update", false, "write testdata/*.json anew")

// off keeps the moments at which we look away from where rounding turns.
const off = 300 * time.Millisecond

// refused lets the next login fail, two minutes into a connection, and looks
// some time after that.
func refused(f wasim.Fault, why reconnect.Reason, after time.Duration) func(*place) {
	return func(p *place) {
		p.run().pair()
		time.Sleep(2 * time.Minute)
		p.sim.Fault(f).OnNextLogin()
		p.sim.Fault(wasim.FIN()).For(p.account.JID()).Now()
		p.await(func(st stability.Status) bool { return st.LastDisconnectReason == why && !st.Connecting })
		time.Sleep(after + off)
	}
}

// ended ends the connection, two minutes into it, and looks some time after.
func ended(f wasim.Fault, after time.Duration) func(*place) {
	return func(p *place) {
		p.run().pair()
		time.Sleep(2 * time.Minute)
		p.sim.Fault(f).For(p.account.JID()).Now()
		p.await(func(st stability.Status) bool { return st.WA != reconnect.StatusConnected && !st.Connecting })
		time.Sleep(after + off)
	}
}

// states is every state of the machine, and what leads there.
var states = []struct {
	name  string
	fine  bool // nothing is wrong
	reach func(*place)
	opts  []stability.Option
}{
	{"standby", true, func(p *place) {
		other := &place{t: p.t, sim: p.sim, account: p.account, memory: p.memory, open: p.open}
		other.make(stability.WithInstanceID("wa-2"))
		p.other = other.run().pair()
		p.run()
		time.Sleep(time.Minute + off)
	}, nil},
	{"standby_not_asked", false, func(p *place) {
		other := &place{t: p.t, sim: p.sim, account: p.account, memory: p.memory, open: p.open}
		other.make(stability.WithInstanceID("wa-2"))
		p.other = other.run().pair()
		ok, err := p.m.TryActivate(p.t.Context())
		require.NoError(p.t, err)
		require.False(p.t, ok)
		other.stop()
		time.Sleep(5*time.Minute + off)
	}, nil},
	{"backoff_lasting", false, func(p *place) {
		p.run().pair()
		time.Sleep(2 * time.Minute)
		p.sim.Fault(wasim.Failure(503)).Times(100).OnNextLogin()
		p.sim.Fault(wasim.FIN()).For(p.account.JID()).Now()
		p.await(func(st stability.Status) bool { return st.LastDisconnectReason == reconnect.ReasonServiceUnavailable })
		time.Sleep(12 * time.Minute)
		p.await(func(st stability.Status) bool { return !st.Connecting && st.NextRetryAt.After(st.At) })
		time.Sleep(off)
	}, []stability.Option{stability.WithReconnect(reconnect.Policy{Jitter: reconnect.NoJitter, StartJitter: time.Nanosecond, MaxDelay: 5 * time.Minute})}},
	{"not_started", false, func(*place) { time.Sleep(time.Minute + off) }, nil},
	{"connecting", false, func(p *place) {
		p.run().pair()
		time.Sleep(2 * time.Minute)
		p.sim.Fault(wasim.HelloDelay(time.Minute)).OnNextLogin()
		p.sim.Fault(wasim.FIN()).For(p.account.JID()).Now()
		p.await(func(st stability.Status) bool { return st.WA != reconnect.StatusConnected && st.Connecting })
		time.Sleep(10*time.Second + off)
	}, nil},
	{"connected", true, func(p *place) {
		p.run().pair()
		time.Sleep(2*time.Minute + off)
	}, nil},
	{"quiet", true, func(p *place) {
		p.run().pair()
		time.Sleep(30*time.Minute + off)
	}, nil},
	{"degraded_handler", false, func(p *place) {
		p.run().pair()
		bob, err := p.sim.NewContact(p.t.Context(), "491520000002")
		require.NoError(p.t, err)
		block := make(chan struct{})
		p.block.Store(&block)
		_, err = bob.Send(p.t.Context(), p.account.JID(), "hello")
		require.NoError(p.t, err)
		time.Sleep(4*time.Minute + off) // after five, whatsmeow goes on without the handler
	}, nil},
	{"degraded_undecryptable", false, func(p *place) {
		p.run().pair()
		bob, err := p.sim.NewContact(p.t.Context(), "491520000002")
		require.NoError(p.t, err)
		say := func(text string) {
			seen := p.m.Status().LastMessageAt
			_, err := bob.Send(p.t.Context(), p.account.JID(), text)
			require.NoError(p.t, err)
			p.await(func(st stability.Status) bool { return st.LastMessageAt.After(seen) })
		}
		say("hello")
		for range 10 { // a session lost before each message, which is then asked for again
			time.Sleep(10 * time.Second)
			sessions := p.m.Client().Store.Sessions
			require.NoError(p.t, sessions.DeleteAllSessions(p.t.Context(), "491520000002"))
			say("are you there?")
		}
		p.await(func(st stability.Status) bool { return st.Probes.Health == keepalive.Degraded })
		time.Sleep(30*time.Second + off)
	}, nil},
	{"mute_no_new_chats", false, func(p *place) {
		p.run().pair()
		p.sim.Fault(wasim.MessageNack(463)).For(p.account.JID()).Always().Now()
		for i := range 6 {
			c, err := p.sim.NewContact(p.t.Context(), "49152000000"+strconv.Itoa(2+i))
			require.NoError(p.t, err)
			time.Sleep(10 * time.Second)
			_, err = p.m.Client().SendMessage(p.t.Context(), c.JID(), &waE2E.Message{Conversation: proto.String("hello")})
			require.ErrorIs(p.t, err, whatsmeow.ErrServerReturnedError)
		}
		time.Sleep(30*time.Second + off)
	}, nil},
	{"new_chats_refused", false, func(p *place) {
		p.run().pair()
		time.Sleep(2 * time.Minute) // the trouble of a pairing is forgotten
		for i := range 2 {
			c, err := p.sim.NewContact(p.t.Context(), "49152000000"+strconv.Itoa(2+i))
			require.NoError(p.t, err)
			time.Sleep(10 * time.Second)
			_, err = p.m.Client().SendMessage(p.t.Context(), c.JID(), &waE2E.Message{Conversation: proto.String("hello")})
			require.Equal(p.t, i == 0, err == nil)
			p.sim.Fault(wasim.MessageNack(463)).For(p.account.JID()).ToNewChats().Always().Now()
		}
		time.Sleep(30*time.Second + off)
	}, nil},
	{"backoff_connection_closed", false, ended(wasim.Reset(), 0), nil},
	{"backoff_fourth_attempt", false, func(p *place) {
		p.run().pair()
		time.Sleep(2 * time.Minute)
		p.sim.Fault(wasim.Refused()).Always().Now()
		p.sim.Fault(wasim.Reset()).For(p.account.JID()).Now()
		p.await(func(st stability.Status) bool { return st.RetryCount == 4 && !st.Connecting })
		time.Sleep(off)
	}, nil},
	{"backoff_service_unavailable", false, ended(wasim.StreamError("503"), 10*time.Second), nil},
	{"backoff_bad_session", false, refused(wasim.Failure(500), reconnect.ReasonBadSession, time.Second), nil},
	{"backoff_network_unreachable", false, refused(wasim.Refused(), reconnect.ReasonNetworkUnreachable, time.Second), nil},
	{"backoff_timed_out", false, refused(wasim.TLSHang(), reconnect.ReasonTimedOut, time.Second), nil},
	{"slow_restart_budget_spent", false, func(p *place) {
		p.run().pair()
		time.Sleep(2 * time.Minute)
		p.sim.Fault(wasim.Refused()).Always().Now()
		p.sim.Fault(wasim.Reset()).For(p.account.JID()).Now()
		p.await(func(stability.Status) bool {
			return slices.ContainsFunc(p.m.Incidents(), func(i guard.Incident) bool {
				return i.Type == "wa_restart_budget_exhausted" && i.Active
			})
		})
		time.Sleep(5*time.Minute + off)
	}, nil},
	{"pause_connection_replaced", false, ended(wasim.Replaced(), 30*time.Second), nil},
	{"slow_connection_replaced_again", false, func(p *place) {
		ended(wasim.Replaced(), 0)(p)
		p.await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected })
		time.Sleep(10 * time.Minute)
		p.sim.Fault(wasim.Replaced()).For(p.account.JID()).Now()
		p.await(func(st stability.Status) bool { return st.WA != reconnect.StatusConnected && !st.Connecting })
		time.Sleep(5*time.Minute + off)
	}, nil},
	{"wait_temporary_ban", false, refused(wasim.TemporaryBan(101, time.Hour), reconnect.ReasonTemporaryBan, 20*time.Minute), nil},
	{"slow_client_outdated", false, refused(wasim.Failure(405), reconnect.ReasonClientOutdated, 5*time.Minute), nil},
	{"slow_connect_rejected", false, refused(wasim.Failure(413), reconnect.ReasonConnectRejected, 5*time.Minute), nil},
	{"stopped_untrusted_server", false, refused(wasim.WrongCertificate(), reconnect.ReasonUntrustedServer, time.Hour), nil},
	{"stopped_account_banned", false, refused(wasim.Failure(406), reconnect.ReasonAccountBanned, time.Hour), nil},
	{"stopped_account_locked", false, refused(wasim.Failure(403), reconnect.ReasonAccountLocked, time.Hour), nil},
	{"never_paired_with_code", false, func(p *place) {
		p.run()
		<-p.codes
		time.Sleep(10*time.Second + off)
	}, nil},
	{"never_paired_nobody_scanned", false, func(p *place) {
		p.run()
		p.await(func(st stability.Status) bool { return st.Parked })
		time.Sleep(time.Hour + off)
	}, []stability.Option{stability.WithPairingRounds(1)}},
	{"never_paired_nobody_asked", false, func(p *place) {
		p.run()
		p.await(func(st stability.Status) bool { return st.Parked })
		time.Sleep(time.Hour + off)
	}, []stability.Option{stability.WithPairingOnRequest()}},
	{"never_paired_code_to_type", false, func(p *place) {
		p.run()
		code, err := p.m.PairPhone(p.t.Context(), "491520000001")
		require.NoError(p.t, err)
		p.typed = code.Code
		time.Sleep(10*time.Second + off)
	}, nil},
	{"never_paired_passkey_asked", false, func(p *place) {
		p.run()
		<-p.codes
		p.m.Client().DangerousInternals().DispatchEvent(&PairPasskeyRequest{})
		p.await(func(st stability.Status) bool { return st.PasskeyAsked })
		time.Sleep(10*time.Second + off)
	}, nil},
	{"logged_out_with_code", false, func(p *place) {
		ended(wasim.DeviceRemoved(), 0)(p)
		<-p.codes
		p.await(func(st stability.Status) bool { return st.QRAvailable })
		time.Sleep(off)
	}, nil},
	{"logged_out_nobody_scanned", false, func(p *place) {
		ended(wasim.DeviceRemoved(), 0)(p)
		p.await(func(st stability.Status) bool { return st.Parked })
		time.Sleep(time.Hour + off)
	}, []stability.Option{stability.WithPairingRounds(1)}},
	{"store_down_while_connected", false, func(p *place) {
		p.run().pair()
		time.Sleep(2 * time.Minute)
		p.broken.Store(true)
		p.await(func(st stability.Status) bool { return st.Heartbeats.Failures > 0 })
		time.Sleep(off)
	}, nil},
	{"store_down_while_disconnected", false, func(p *place) {
		p.run().pair()
		time.Sleep(2 * time.Minute)
		p.broken.Store(true)
		p.sim.Fault(wasim.Reset()).For(p.account.JID()).Now()
		p.await(func(st stability.Status) bool { return st.StoreUnavailable != nil })
		time.Sleep(10*time.Second + off)
	}, nil},
	{"store_down_in_standby", false, func(p *place) {
		p.broken.Store(true)
		p.run()
		p.await(func(st stability.Status) bool { return st.StoreUnavailable != nil })
		time.Sleep(time.Minute + off)
	}, nil},
	{"released", false, func(p *place) {
		p.run().pair()
		time.Sleep(2 * time.Minute)
		p.sim.Fault(wasim.WrongCertificate()).Always().OnNextLogin()
		p.sim.Fault(wasim.FIN()).For(p.account.JID()).Now()
		p.await(func(st stability.Status) bool { return st.Mode == stability.ModeReleased })
		time.Sleep(10*time.Second + off)
	}, []stability.Option{stability.WithReconnect(reconnect.Policy{Jitter: reconnect.NoJitter, StartJitter: time.Nanosecond})}},
	{"closed", false, func(p *place) {
		p.run().pair()
		time.Sleep(2 * time.Minute)
		p.stop()
		time.Sleep(time.Minute + off)
	}, nil},
}
