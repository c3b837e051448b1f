package adminhttp_test

import (
	"context"
	"errors"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// caused is what was done to the account in a state, the last thing first. Its
// name says so where there was no more than the end of the connection.
var caused = map[string][]reconnect.Reason{
	"backoff_lasting":                {reconnect.ReasonServiceUnavailable, reconnect.ReasonConnectionClosed},
	"connecting":                     {reconnect.ReasonConnectionClosed},
	"backoff_connection_closed":      {reconnect.ReasonConnectionClosed},
	"backoff_fourth_attempt":         {reconnect.ReasonNetworkUnreachable, reconnect.ReasonConnectionClosed},
	"backoff_service_unavailable":    {reconnect.ReasonServiceUnavailable},
	"backoff_bad_session":            {reconnect.ReasonBadSession, reconnect.ReasonConnectionClosed},
	"backoff_network_unreachable":    {reconnect.ReasonNetworkUnreachable, reconnect.ReasonConnectionClosed},
	"backoff_timed_out":              {reconnect.ReasonTimedOut, reconnect.ReasonConnectionClosed},
	"slow_restart_budget_spent":      {reconnect.ReasonNetworkUnreachable, reconnect.ReasonConnectionClosed},
	"pause_connection_replaced":      {reconnect.ReasonConnectionReplaced},
	"slow_connection_replaced_again": {reconnect.ReasonConnectionReplaced},
	"wait_temporary_ban":             {reconnect.ReasonTemporaryBan, reconnect.ReasonConnectionClosed},
	"slow_client_outdated":           {reconnect.ReasonClientOutdated, reconnect.ReasonConnectionClosed},
	"slow_connect_rejected":          {reconnect.ReasonConnectRejected, reconnect.ReasonConnectionClosed},
	"stopped_untrusted_server":       {reconnect.ReasonUntrustedServer, reconnect.ReasonConnectionClosed},
	"stopped_account_banned":         {reconnect.ReasonAccountBanned, reconnect.ReasonConnectionClosed},
	"stopped_account_locked":         {reconnect.ReasonAccountLocked, reconnect.ReasonConnectionClosed},
	"never_paired_nobody_scanned":    {reconnect.ReasonQRExpired},
	"logged_out_with_code":           {reconnect.ReasonLoggedOut},
	"logged_out_nobody_scanned":      {reconnect.ReasonQRExpired, reconnect.ReasonLoggedOut},
	"store_down_while_connected":     {reconnect.ReasonStoreUnavailable},
	"store_down_while_disconnected":  {reconnect.ReasonStoreUnavailable, reconnect.ReasonConnectionClosed},
	"lost":                           {reconnect.ReasonConnectionLost},
	"pairing_failed_for_good":        {reconnect.ReasonPairingFailed},
	"pairing_failed":                 {reconnect.ReasonPairingFailed},
	"requested":                      {reconnect.ReasonRequested},
	"closed_by_program":              {reconnect.ReasonClosedByProgram},
	"restart_required":               {reconnect.ReasonRestartRequired},
	"handed_over":                    {reconnect.ReasonHandedOver},
	"holder_lost":                    {reconnect.ReasonHolderLost},
	"lock_lost":                      {reconnect.ReasonLockLost},
	"slow_connect_rejected_stopped":  {reconnect.ReasonConnectRejected, reconnect.ReasonConnectionClosed},
	"took_over":                      {reconnect.ReasonUntrustedServer},
	"got_it_back":                    {reconnect.ReasonNetworkUnreachable},
	"released":                       {reconnect.ReasonUntrustedServer, reconnect.ReasonConnectionClosed},
}

// reported are the answers of the service, or of the network, in a state.
var reported = map[string]string{
	"pairing_failed":                "the phone's signature is not valid",
	"pairing_failed_for_good":       "the phone's signature is not valid",
	"lost":                          "The socket is open but dead: 2 pings in a row were not answered",
	"requested":                     "the program asked to reconnect",
	"backoff_lasting":               "code 503",
	"backoff_service_unavailable":   "code 503",
	"backoff_bad_session":           "code 500",
	"backoff_fourth_attempt":        "the connection was refused",
	"backoff_network_unreachable":   "the connection was refused",
	"slow_restart_budget_spent":     "the connection was refused",
	"logged_out_with_code":          "code 401, the device was removed on the phone",
	"logged_out_nobody_scanned":     "code 401, the device was removed on the phone",
	"wait_temporary_ban":            "code 402, 101: you sent too many messages to people who don't have you in their address books",
	"slow_connect_rejected_stopped": "code 413, the crypto auth token was refused",
	"slow_connect_rejected":         "code 413, the crypto auth token was refused",
	"stopped_untrusted_server":      "the server's Noise certificate is not WhatsApp's",
	"released":                      "the server's Noise certificate is not WhatsApp's",
}

// statesForTruth are more of them, for the situations that the others miss.
var statesForTruth = []struct {
	name  string
	fine  bool
	reach func(*place)
	opts  []stability.Option
}{
	{"run_failed", false, func(p *place) {
		err := p.m.Run(p.t.Context(), func(context.Context, *whatsmeow.Client) error { return errors.New("no such table") })
		require.Error(p.t, err)
		time.Sleep(time.Minute + off)
	}, nil},
	{"no_plan", false, func(p *place) {
		require.NoError(p.t, p.m.Activate(p.t.Context()))
		time.Sleep(time.Minute + off)
	}, nil},
	{"code_coming", false, func(p *place) {
		p.sim.Fault(wasim.HelloDelay(5 * time.Second)).OnNextLogin()
		p.run()
		p.await(func(st stability.Status) bool { return st.Connecting })
	}, nil},
	{"lost", false, interrupted(reconnect.ReasonConnectionLost, func(p *place) { p.sim.Fault(wasim.BlackHole()).For(p.account.JID()).Now() }), nil},
	{"standby_by_hand", false, func(p *place) {
		p.second().run().pair()
		time.Sleep(2 * time.Minute)
		ok, err := p.m.TryActivate(p.t.Context())
		require.NoError(p.t, err)
		require.False(p.t, ok)
		time.Sleep(10*time.Second + off)
	}, nil},
	{"replaced_long_ago", true, func(p *place) {
		ended(wasim.Replaced(), 0)(p)
		p.await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected })
		time.Sleep(2*time.Minute + off)
	}, nil},
	{"slow_connect_rejected_stopped", false, func(p *place) {
		p.run().pair()
		time.Sleep(2 * time.Minute)
		p.sim.Fault(wasim.Failure(413)).Always().OnNextLogin()
		p.sim.Fault(wasim.FIN()).For(p.account.JID()).Now()
		time.Sleep(time.Hour)
		p.await(func(st stability.Status) bool { return st.Parked })
		time.Sleep(time.Minute + off)
	}, nil},
	{"messages_refused_before", false, func(p *place) {
		p.run().pair()
		p.refuses.Store(true)
		p.note(&p.blocked)
		p.writes()
		p.await(func(st stability.Status) bool {
			by := st.Messages.Received.By
			return by[stability.MessageRefused].Count+by[stability.MessageKept].Count == 1
		})
		p.stop()
		p.refuses.Store(true)
		p.make()
		p.run()
		p.await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected })
		time.Sleep(30*time.Second + off)
	}, nil},
	{"pairing_failed", false, func(p *place) {
		p.run()
		_ = p.account.Phone().Scan((<-p.codes).Code, wasim.BadSignature())
		p.await(func(st stability.Status) bool { return st.LastDisconnectReason == reconnect.ReasonPairingFailed })
		time.Sleep(off)
	}, nil},
	{"pairing_failed_for_good", false, func(p *place) {
		p.run()
		_ = p.account.Phone().Scan((<-p.codes).Code, wasim.BadSignature())
		p.await(func(st stability.Status) bool { return st.Parked })
		time.Sleep(time.Hour + off)
	}, []stability.Option{stability.WithPairingRounds(1)}},
	{"requested", false, interrupted(reconnect.ReasonRequested, func(p *place) { p.m.Reconnect() }), nil},
	{"closed_by_program", false, interrupted(reconnect.ReasonClosedByProgram, func(p *place) { p.m.Client().Disconnect() }), nil},
	{"restart_required", false, func(p *place) {
		p.run()
		code := (<-p.codes).Code
		p.sim.Fault(wasim.HelloDelay(time.Minute)).OnNextLogin()
		require.NoError(p.t, p.account.Phone().Scan(code))
		p.await(func(st stability.Status) bool {
			return st.LastDisconnectReason == reconnect.ReasonRestartRequired && st.Connecting
		})
		p.device = p.account.Devices()[0]
		p.note(&p.blocked)
		time.Sleep(time.Second + off)
	}, nil},
	{"handed_over", false, func(p *place) {
		p.second().run().pair()
		p.run()
		time.Sleep(2 * time.Minute)
		p.sim.Fault(wasim.HelloDelay(time.Minute)).OnNextLogin()
		p.other.stop()
		p.await(func(st stability.Status) bool { return st.Connecting })
		time.Sleep(time.Second + off)
	}, nil},
	{"holder_lost", false, func(p *place) {
		p.second().run().pair()
		p.run()
		time.Sleep(2 * time.Minute)
		p.sim.Fault(wasim.HelloDelay(time.Minute)).OnNextLogin()
		p.other.broken.Store(true)
		p.await(func(st stability.Status) bool { return st.Connecting })
		p.other.broken.Store(false)
		time.Sleep(time.Second + off)
	}, nil},
	{"lock_lost", false, func(p *place) {
		p.run().pair()
		p.second().run()
		time.Sleep(2 * time.Minute)
		p.broken.Store(true)
		p.await(func(st stability.Status) bool { return st.Mode != stability.ModeActive })
		time.Sleep(time.Minute)
		p.broken.Store(false)
		time.Sleep(2*time.Minute + off)
	}, nil},
	{"took_over", true, func(p *place) {
		p.second(yields...).run().pair()
		time.Sleep(2 * time.Minute)
		p.run()
		p.sim.Fault(wasim.WrongCertificate()).OnNextLogin()
		p.sim.Fault(wasim.FIN()).For(p.account.JID()).Now()
		p.await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected })
		time.Sleep(10*time.Second + off)
	}, yields},
	{"got_it_back", false, func(p *place) {
		p.run().pair()
		time.Sleep(2 * time.Minute)
		f := p.sim.Fault(wasim.Refused()).Always().OnNextLogin()
		p.sim.Fault(wasim.FIN()).For(p.account.JID()).Now()
		p.await(func(st stability.Status) bool { return st.Mode == stability.ModeReleased })
		f.Stop()
		p.await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected })
		time.Sleep(10*time.Second + off)
	}, yields},
	{"messages_refused", false, func(p *place) {
		p.run().pair()
		p.refuses.Store(true)
		p.note(&p.blocked)
		p.writes()
		p.await(func(st stability.Status) bool { return st.Messages.Received.By[stability.MessageRefused].Count == 1 })
		time.Sleep(2*time.Minute + off)
		p.await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected && !st.Connecting })
	}, nil},
	{"messages_wait", false, func(p *place) {
		p.run().pair()
		why := "no such table"
		p.panics.Store(&why)
		p.writes()
		p.await(func(st stability.Status) bool { return st.Messages.Received.By[stability.MessageKept].Count == 1 })
		p.note(&p.blocked)
		time.Sleep(time.Second + off)
	}, nil},
}

var yields = []stability.Option{stability.WithReconnect(reconnect.Policy{Jitter: reconnect.NoJitter, StartJitter: time.Nanosecond})}

// interrupted ends the connection, two minutes into it, and looks at the next
// attempt.
func interrupted(why reconnect.Reason, end func(*place)) func(*place) {
	return func(p *place) {
		p.run().pair()
		time.Sleep(2 * time.Minute)
		p.sim.Fault(wasim.HelloDelay(time.Minute)).OnNextLogin()
		end(p)
		p.await(func(st stability.Status) bool { return st.LastDisconnectReason == why && st.Connecting })
		time.Sleep(time.Second + off)
	}
}

// second makes the other instance.
func (p *place) second(opts ...stability.Option) *place {
	p.other = &place{t: p.t, sim: p.sim, account: p.account, memory: p.memory, open: p.open}
	p.other.make(append([]stability.Option{stability.WithInstanceID("wa-2")}, opts...)...)
	return p.other
}
