package guard_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/reconnect"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func down(since time.Time) guard.Facts {
	return guard.Facts{InstanceID: "a", Holder: true, DisconnectedSince: since, Reason: "timed_out", RetryCount: 7, Do: "Check the network."}
}

var up = guard.Facts{InstanceID: "a", Holder: true, Connected: true, SendsAcknowledged: true}

func types(list []guard.Incident) (out []guard.Type) {
	for _, inc := range list {
		out = append(out, inc.Type)
	}
	return out
}

func TestNoIncidentAdvisesToDoNothing(t *testing.T) {
	f := down(start)
	f.Do = "Nothing." // as the text of many a reason says
	inc := guard.New(guard.Policy{}).Decide(f, start.Add(time.Hour)).Raise[0]
	require.Equal(t, guard.TypeDisconnectStuck, inc.Type)
	require.Equal(t, "Check the network between this host and WhatsApp.", inc.Instructions)
	for _, r := range reconnect.Reasons() {
		if r == reconnect.ReasonIntentional {
			continue
		}
		f.Reason, f.Do, f.BudgetExhausted, f.Unfit = string(r), r.Text().DoIfItLasts(), true, []time.Time{start, start.Add(time.Minute)}
		for _, inc := range guard.New(guard.Policy{}).Decide(f, start.Add(time.Hour)).Raise {
			require.NotRegexp(t, `^(Nothing|If it) |^Nothing\.`, inc.Instructions, "%s, %s: it has lasted already", inc.Type, r)
			require.Regexp(t, `^[A-Z].*\.$`, inc.Instructions, "%s, %s", inc.Type, r)
		}
	}
}

// The reader of a message alone knows when a ban is over.
func TestBanNamesItsEnd(t *testing.T) {
	f := down(start)
	f.Reason, f.NotBefore = "temporary_ban", start.Add(time.Hour)
	inc := guard.New(guard.Policy{}).Decide(f, start).Raise[0]
	require.Equal(t, guard.TypeTemporaryBan, inc.Type)
	require.Contains(t, inc.Instructions, "04:04:05 UTC on 2 January 2026")
}

// An incident that nothing ends by itself does not say that the library tries.
func TestStuckDisconnectSaysWhetherItTries(t *testing.T) {
	f := down(start)
	_, text := guard.TypeDisconnectStuck.Runbook()
	require.Contains(t, text, "keeps trying")
	raised := guard.New(guard.Policy{}).Decide(f, start.Add(time.Hour)).Raise[0]
	require.Contains(t, raised.Runbook, "Nothing happens by itself")
	f.NextRetryAt = start.Add(2 * time.Hour)
	raised = guard.New(guard.Policy{}).Decide(f, start.Add(time.Hour)).Raise[0]
	require.Contains(t, raised.Runbook, "keeps trying")
}

func TestStuckDisconnectIsOneIncidentRefreshedEachMinuteAndResolved(t *testing.T) {
	g := guard.New(guard.Policy{})
	p := g.Decide(down(start), start)
	require.Empty(t, p.Raise)
	require.Equal(t, start.Add(10*time.Minute), p.CheckAt)

	now := p.CheckAt
	p = g.Decide(down(start), now)
	require.Equal(t, []guard.Type{guard.TypeDisconnectStuck}, types(p.Raise))
	first := p.Raise[0]
	require.Equal(t, "wa_disconnect_stuck_active", first.ID)
	require.Equal(t, "timed_out", first.Evidence["reason"])
	require.Equal(t, "Check the network.", first.Instructions)
	require.NotEmpty(t, first.Runbook)
	for range 5 {
		require.Empty(t, g.Decide(down(start), now.Add(30*time.Second)).Raise)
		require.Equal(t, now.Add(time.Minute), p.CheckAt)
		now = p.CheckAt
		p = g.Decide(down(start), now)
		require.Len(t, p.Raise, 1)
		require.Equal(t, now, p.Raise[0].LastCheckedAt)
		require.Equal(t, first.DetectedAt, p.Raise[0].DetectedAt)
	}
	p = g.Decide(up, now)
	require.Equal(t, []string{first.ID}, p.Resolve)
	g.Resolved(first.ID)
	require.Empty(t, g.Decide(up, now.Add(time.Hour)).Resolve)

	// The second outage is not silent.
	p = g.Decide(down(now.Add(2*time.Hour)), now.Add(3*time.Hour))
	require.Len(t, p.Raise, 1)
	require.Equal(t, now.Add(3*time.Hour), p.Raise[0].DetectedAt)
}

func TestResolveIsRepeatedUntilItSucceeded(t *testing.T) {
	g := guard.New(guard.Policy{})
	g.Decide(down(start), start.Add(time.Hour))
	now := start.Add(2 * time.Hour)
	p := g.Decide(up, now)
	require.Len(t, p.Resolve, 1)
	require.Equal(t, now.Add(time.Minute), p.CheckAt, "nobody has said that it worked")
	require.Empty(t, g.Decide(up, now.Add(time.Second)).Resolve)
	require.Len(t, g.Decide(up, now.Add(time.Minute)).Resolve, 1)
	// A new outage before that: raised, and no longer to be resolved.
	p = g.Decide(down(now), now.Add(time.Hour))
	require.Len(t, p.Raise, 1)
	require.Empty(t, p.Resolve)
}

func TestLogoutIsOverWhenPairedNotOnlyWhenConnected(t *testing.T) {
	g := guard.New(guard.Policy{})
	g.Decide(guard.Facts{Holder: true, NeedsPairing: true, Reason: "logged_out"}, start)
	require.Len(t, g.Decide(guard.Facts{Holder: true, Reason: "restart_required"}, start).Resolve, 1)
}

func TestLogoutStaysUntilPairedWhateverHappensToTheCodes(t *testing.T) {
	g := guard.New(guard.Policy{})
	f := guard.Facts{Holder: true, NeedsPairing: true, Reason: "logged_out", DisconnectedSince: start}
	require.Equal(t, []guard.Type{guard.TypeLoggedOut}, types(g.Decide(f, start).Raise))
	f.Reason = "qr_expired"
	p := g.Decide(f, start.Add(time.Hour))
	require.Equal(t, []guard.Type{guard.TypeLoggedOut}, types(p.Raise))
	require.Equal(t, "logged_out", p.Raise[0].Evidence["reason"], "the evidence of its beginning stays")
	require.Equal(t, []string{"wa_logged_out_requires_pairing_active"}, g.Decide(up, start.Add(2*time.Hour)).Resolve)

	require.Empty(t, guard.New(guard.Policy{}).Decide(guard.Facts{Holder: true, NeedsPairing: true}, start).Raise, "never paired is no incident")
}

// Behind a logout no attempt is made and nothing is sent until somebody pairs,
// which may take days.
func TestTroubleOfTheConnectionEndsWithALogout(t *testing.T) {
	for kind, f := range map[guard.Type]guard.Facts{
		guard.TypeDisconnectStuck:    {DisconnectedSince: start.Add(-time.Hour), Reason: "timed_out"},
		guard.TypeReconnectLoop:      {Loop: true},
		guard.TypeRestartLoop:        {Demands: 9},
		guard.TypeRestartBudget:      {BudgetExhausted: true},
		guard.TypeHolderUnfit:        {Unfit: []time.Time{start, start}},
		guard.TypeClientOutdated:     {Reason: "client_outdated"},
		guard.TypeConnectionConflict: {Replacements: []time.Time{start, start}},
		guard.TypeSendsRefused:       {Connected: true, SendsRefusedSince: start},
	} {
		g := guard.New(guard.Policy{})
		f.Holder = true
		require.Equal(t, []guard.Type{kind}, types(g.Decide(f, start).Raise))
		now := start
		var over []string
		for range 60 {
			now = now.Add(time.Minute)
			out := f // of an hour before
			out.Connected, out.NeedsPairing, out.Reason = false, true, "logged_out"
			over = append(over, g.Decide(out, now).Resolve...)
		}
		require.Contains(t, over, kind.ActiveID())
	}
}

func TestATroubleWithItsOwnIncidentIsNotReportedTwice(t *testing.T) {
	for reason, want := range map[string][]guard.Type{
		"temporary_ban":       {guard.TypeTemporaryBan},
		"client_outdated":     {guard.TypeClientOutdated},
		"store_unavailable":   {guard.TypeStoreUnavailable},
		"connection_replaced": {guard.TypeConnectionConflict},
		"restart_required":    {guard.TypeRestartLoop},
		"intentional":         nil,
	} {
		f := down(start)
		f.Reason = reason
		switch reason {
		case "store_unavailable":
			f.StoreDownSince = start
		case "restart_required":
			f.Demands = 6
		case "connection_replaced":
			f.Replacements = []time.Time{start.Add(10 * time.Minute), start.Add(30 * time.Minute)}
		}
		if reason == "temporary_ban" {
			f.NotBefore = start.Add(24 * time.Hour)
		}
		require.Equal(t, want, types(guard.New(guard.Policy{}).Decide(f, start.Add(time.Hour)).Raise), reason)
	}
}

func TestBanStaysOpenUntilAnAttemptHasShownMore(t *testing.T) {
	g := guard.New(guard.Policy{})
	f := down(start)
	f.Reason, f.NotBefore = "temporary_ban", start.Add(time.Hour)
	g.Decide(f, start)
	require.Empty(t, g.Decide(f, start.Add(2*time.Hour)).Resolve)
	require.Len(t, g.Decide(up, start.Add(2*time.Hour)).Resolve, 1)
}

// Every type can be raised and is resolved again; a plan never contradicts
// itself, and CheckAt is always ahead.
func TestPlansAreSoundInAnyHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := guard.New(guard.Policy{})
		active := map[string]bool{}
		now := start
		step := func(f guard.Facts) {
			p := g.Decide(f, now)
			require.True(t, p.CheckAt.IsZero() || p.CheckAt.After(now))
			for _, inc := range p.Raise {
				require.NotContains(t, p.Resolve, inc.ID)
				require.Equal(t, inc.Type.ActiveID(), inc.ID)
				require.NotEmpty(t, inc.Instructions)
				require.NotEmpty(t, inc.Runbook)
				require.False(t, inc.DetectedAt.After(inc.LastCheckedAt))
				active[inc.ID] = true
			}
			for _, id := range p.Resolve {
				require.True(t, active[id], "resolved what was never raised")
				delete(active, id)
				g.Resolved(id)
			}
		}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 900).Draw(t, "pause")) * time.Second)
			at := func(name string) (out time.Time) {
				if rapid.Bool().Draw(t, name) {
					out = now.Add(-time.Duration(rapid.IntRange(0, 4000).Draw(t, name+" ago")) * time.Second)
				}
				return out
			}
			b := func(name string) bool { return rapid.Bool().Draw(t, name) }
			step(guard.Facts{
				Holder: true, Connected: b("connected"), NeedsPairing: b("needsPairing"), DisconnectedSince: at("since"),
				Reason: rapid.SampledFrom([]string{"", "timed_out", "logged_out", "account_banned", "temporary_ban", "client_outdated", "restart_required", "intentional"}).Draw(t, "reason"),
				Loop:   b("loop"), BudgetExhausted: b("budget"), DegradedSince: at("degraded"), StoreDownSince: at("store"), SameID: b("id"),
				SendsRefusedSince: at("sends"), SendsAcknowledged: b("acknowledged"),
				Demands:      rapid.IntRange(0, 9).Draw(t, "demands"),
				NotBefore:    now.Add(time.Duration(rapid.IntRange(-100, 100).Draw(t, "ban")) * time.Second),
				WaitingSince: at("waiting"), SetAsideSince: now, SetAsideCount: rapid.IntRange(0, 2).Draw(t, "aside"),
				Terms: slices.Repeat([]time.Time{now}, rapid.IntRange(0, 6).Draw(t, "terms")), Replacements: slices.Repeat([]time.Time{now}, rapid.IntRange(0, 3).Draw(t, "replaced")),
			})
		}
		for range 3 { // all is well, for long
			now = now.Add(2 * time.Hour)
			step(up)
		}
		require.Empty(t, active, "an incident outlived its trouble")
	})
}

func TestRefusedSendsEndOnlyWithAnAcknowledgedOne(t *testing.T) {
	g, now := guard.New(guard.Policy{}), time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	id := guard.TypeSendsRefused.ActiveID()
	mute := guard.Facts{
		Holder: true, Connected: true, SendsRefusedSince: now, SendsCode: 463, SendsFailed: 5, SendsMeans: "No new chats.", SendsDo: "Wait.",
	}
	plan := g.Decide(mute, now)
	require.Len(t, plan.Raise, 1)
	require.Equal(t, id, plan.Raise[0].ID)
	require.Equal(t, "Wait.", plan.Raise[0].Instructions)
	require.Contains(t, plan.Raise[0].Runbook, "No new chats.")
	require.Equal(t, "463", plan.Raise[0].Evidence["code"])
	require.Equal(t, "5", plan.Raise[0].Evidence["inARow"])
	nothing := guard.Facts{Holder: true, Connected: true} // as a new process has sent
	for range 100 {
		now = now.Add(time.Minute)
		require.Empty(t, g.Decide(nothing, now).Resolve)
	}
	works := guard.Facts{Holder: true, Connected: true, SendsAcknowledged: true}
	require.Empty(t, g.Decide(works, now).Resolve, "it may flap")
	require.Equal(t, []string{id}, g.Decide(works, now.Add(time.Minute)).Resolve)
}

func TestPolicyFieldsAreValidatedByName(t *testing.T) {
	require.NoError(t, guard.Policy{}.Validate())
	for field, p := range map[string]guard.Policy{
		"StuckAfter": {StuckAfter: -1}, "Refresh": {Refresh: -1}, "StoreAfter": {StoreAfter: -1}, "ConflictWindow": {ConflictWindow: -1},
		"FlapTerms": {FlapTerms: -1}, "WaitingAfter": {WaitingAfter: -1}, "FlapWindow": {FlapWindow: -1}, "ClearAfter": {ClearAfter: -1},
	} {
		require.ErrorContains(t, p.Validate(), "Policy."+field)
	}
}

func TestMessagesThatHandlersDoNotTakeAreAnIncident(t *testing.T) {
	g := guard.New(guard.Policy{})
	f := up
	f.WaitingSince, f.WaitingCount, f.MessagesText = start, 3, "a handler returned false"
	require.Empty(t, g.Decide(f, start.Add(29*time.Minute)).Raise, "they come again soon")
	p := g.Decide(f, start.Add(30*time.Minute))
	require.Equal(t, []guard.Type{guard.TypeMessagesWaiting}, types(p.Raise))
	require.Equal(t, "3", p.Raise[0].Evidence["messages"])
	require.Equal(t, "a handler returned false", p.Raise[0].Evidence["detail"])

	f.WaitingSince, f.SetAsideSince, f.SetAsideCount = time.Time{}, start.Add(time.Hour), 1
	p = g.Decide(f, start.Add(time.Hour))
	require.Equal(t, []guard.Type{guard.TypeMessagesSetAside}, types(p.Raise))
	require.Equal(t, []string{"wa_messages_waiting_active"}, p.Resolve)
	g.Resolved("wa_messages_waiting_active")
	f = up
	f.BookUnread = true
	require.Empty(t, g.Decide(f, start.Add(2*time.Hour)).Resolve, "a new holder that has read nothing yet knows of no message")
	require.Equal(t, []string{"wa_messages_set_aside_active"}, g.Decide(up, start.Add(2*time.Hour)).Resolve)
}

// Evidence has names for machines and labels for people. Every name that the guard
// writes has a label, and nothing is lost between the two.
func TestEvidenceIsLabelledForPeople(t *testing.T) {
	full := guard.Facts{
		InstanceID: "a", Reason: "timed_out", Code: 500, Detail: "detail", DisconnectedSince: start, RetryCount: 3, NextRetryAt: start, NotBefore: start,
		Demands: 7, Unfit: []time.Time{start}, UnfitText: "unfit", DegradedSince: start, DegradedText: "degraded", SendsRefusedSince: start, SendsCode: 463,
		SendsFailed: 3, StoreDownSince: start, Terms: []time.Time{start}, DamagedAt: start, DamagedRows: 2, DamagedText: "damaged",
		WaitingSince: start, WaitingCount: 2, SetAsideSince: start, SetAsideCount: 2, MessagesText: "messages",
	}
	for _, kind := range guard.Types() {
		inc := guard.Described(kind, full)
		var values []string
		for label, value := range inc.Seen() {
			require.NotContains(t, inc.Evidence, label, "%s: a name is no label", kind)
			values = append(values, value)
		}
		require.ElementsMatch(t, slices.Collect(maps.Values(inc.Evidence)), values, kind)
	}
	var labels []string
	for label := range (guard.Incident{Evidence: map[string]string{"z_own": "1", "reason": "2", "a_own": "3", "since": "4"}}).Seen() {
		labels = append(labels, label)
	}
	require.Equal(t, []string{"Since", "Reason, as the log names it", "a_own", "z_own"}, labels)
}

func TestEveryTypeHasARunbook(t *testing.T) {
	seen := map[guard.Type]bool{}
	for _, kind := range guard.Types() {
		require.False(t, seen[kind])
		seen[kind] = true
		do, text := kind.Runbook()
		require.NotEmpty(t, do, kind)
		require.NotEmpty(t, text, kind)
		require.Contains(t, kind.Title(), " ", "%s: words, and not the type's name", kind)
		require.NotEqual(t, strings.ReplaceAll(strings.TrimPrefix(string(kind), "wa_"), "_", " "), kind.Title())
	}
	require.Equal(t, "own trouble", guard.Type("wa_own_trouble").Title())
	do, text := guard.Type("wa_unknown").Runbook()
	require.Empty(t, do+text)
}
