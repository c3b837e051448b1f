package sqlcompare

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// txnActions are the calls that whatsmeow makes inside a transaction.
func (s *sides) txnActions() []func() {
	return []func(){
		func() {
			a := pick(s, "addr", addresses)
			x, e1 := s.ours.Sessions.GetSession(s.contextA, a)
			y, e2 := s.theirs.Sessions.GetSession(s.contextB, a)
			require.NoError(s.t, e1)
			require.NoError(s.t, e2)
			equalBytes(s, "GetSession "+a, x, y)
		},
		func() {
			a, v := pick(s, "addr", addresses), s.bytes("session")
			agree(s, "PutSession", 0, 0, s.ours.Sessions.PutSession(s.contextA, a, v), s.theirs.Sessions.PutSession(s.contextB, a, v))
		},
		func() {
			a := pick(s, "addr", addresses)
			x, e1 := s.ours.Sessions.HasSession(s.contextA, a)
			y, e2 := s.theirs.Sessions.HasSession(s.contextB, a)
			agree(s, "HasSession", x, y, e1, e2)
		},
		func() {
			a := pick(s, "addr", addresses)
			agree(s, "DeleteSession", 0, 0, s.ours.Sessions.DeleteSession(s.contextA, a), s.theirs.Sessions.DeleteSession(s.contextB, a))
		},
		func() {
			a, k := pick(s, "addr", addresses), s.key("key")
			agree(s, "PutIdentity", 0, 0, s.ours.Identities.PutIdentity(s.contextA, a, k), s.theirs.Identities.PutIdentity(s.contextB, a, k))
		},
		func() {
			a, k := pick(s, "addr", addresses), s.key("key")
			x, e1 := s.ours.Identities.IsTrustedIdentity(s.contextA, a, k)
			y, e2 := s.theirs.Identities.IsTrustedIdentity(s.contextB, a, k)
			agree(s, "IsTrustedIdentity", x, y, e1, e2)
		},
		func() { // LID addresses only as far as "_" matches nothing else here
			a := pick(s, "addr", addresses)
			agree(s, "DeleteIdentity", 0, 0, s.ours.Identities.DeleteIdentity(s.contextA, a), s.theirs.Identities.DeleteIdentity(s.contextB, a))
		},
		func() {
			g, u, v := pick(s, "group", []string{"g1@g.us", "g2@g.us"}), pick(s, "addr", addresses), s.senderKey()
			agree(s, "PutSenderKey", 0, 0, s.ours.SenderKeys.PutSenderKey(s.contextA, g, u, v), s.theirs.SenderKeys.PutSenderKey(s.contextB, g, u, v))
		},
		func() {
			g, u := pick(s, "group", []string{"g1@g.us", "g2@g.us"}), pick(s, "addr", addresses)
			x, e1 := s.ours.SenderKeys.GetSenderKey(s.contextA, g, u)
			y, e2 := s.theirs.SenderKeys.GetSenderKey(s.contextB, g, u)
			require.NoError(s.t, e1)
			require.NoError(s.t, e2)
			equalBytes(s, "GetSenderKey", x, y)
		},
		func() {
			h := s.key("hash")
			if s.hashes[h] {
				return // an error in a transaction: both refuse, tested outside
			}
			s.hashes[h] = true
			v, at := s.bytes("plaintext"), time.Unix(int64(rapid.IntRange(0, 1000).Draw(s.t, "t")), 0)
			agree(s, "PutBufferedEvent", 0, 0, s.ours.EventBuffer.PutBufferedEvent(s.contextA, h, v, at), s.theirs.EventBuffer.PutBufferedEvent(s.contextB, h, v, at))
		},
		func() {
			h := s.key("hash")
			x, e1 := s.ours.EventBuffer.GetBufferedEvent(s.contextA, h)
			y, e2 := s.theirs.EventBuffer.GetBufferedEvent(s.contextB, h)
			require.NoError(s.t, e1)
			require.NoError(s.t, e2)
			require.Equal(s.t, y == nil, x == nil, "GetBufferedEvent")
			if x != nil {
				equalBytes(s, "plaintext", x.Plaintext, y.Plaintext)
				require.Equal(s.t, y.ServerTime, x.ServerTime)
			}
		},
		func() {
			h := s.key("hash")
			agree(s, "ClearBufferedEventPlaintext", 0, 0, s.ours.EventBuffer.ClearBufferedEventPlaintext(s.contextA, h), s.theirs.EventBuffer.ClearBufferedEventPlaintext(s.contextB, h))
		},
	}
}

func (s *sides) actions() []func() {
	ctx := context.Background()
	all := append(s.txnActions(), s.inTxn, s.inTxn, s.inTxn, s.reload,
		func() {
			as := rapid.SliceOfNDistinct(rapid.SampledFrom(addresses), 0, 4, rapid.ID).Draw(s.t, "addrs")
			// Of a number that moved to its LID no send may begin.
			as = slices.DeleteFunc(as, func(a string) bool { user, _, _ := strings.Cut(a, ":"); return s.moved[user] })
			x, e1 := s.ours.Sessions.GetManySessions(ctx, as)
			y, e2 := s.theirs.Sessions.GetManySessions(ctx, as)
			agree(s, "GetManySessions", x, y, e1, e2)
			put := make(map[string][]byte)
			for _, a := range as {
				if rapid.Bool().Draw(s.t, "dirty") {
					put[a] = s.bytes("session")
				}
			}
			if len(put) > 0 {
				agree(s, "PutManySessions", 0, 0, s.ours.Sessions.PutManySessions(ctx, put), s.theirs.Sessions.PutManySessions(ctx, put))
			}
		},
		func() { // no LID is known for this user, so both mean the same rows
			u := "15550009"
			a := u + ":0"
			agree(s, "PutSession", 0, 0, s.ours.Sessions.PutSession(ctx, a, []byte{1}), s.theirs.Sessions.PutSession(ctx, a, []byte{1}))
			agree(s, "DeleteAllSessions", 0, 0, s.ours.Sessions.DeleteAllSessions(ctx, u), s.theirs.Sessions.DeleteAllSessions(ctx, u))
			agree(s, "DeleteAllIdentities", 0, 0, s.ours.Identities.DeleteAllIdentities(ctx, u), s.theirs.Identities.DeleteAllIdentities(ctx, u))
			x, e1 := s.ours.Sessions.HasSession(ctx, a)
			y, e2 := s.theirs.Sessions.HasSession(ctx, a)
			agree(s, "HasSession", x, y, e1, e2)
		},
		func() {
			i := rapid.IntRange(0, 1).Draw(s.t, "who")
			s.moved[users[i].User] = true
			// Without a session or an identity, sender keys are not looked for.
			a := users[i].User + ":0"
			agree(s, "PutIdentity", 0, 0, s.ours.Identities.PutIdentity(ctx, a, [32]byte{1}), s.theirs.Identities.PutIdentity(ctx, a, [32]byte{1}))
			agree(s, "MigratePNToLID", 0, 0, s.ours.Sessions.MigratePNToLID(ctx, users[i], users[i+2]), s.theirs.Sessions.MigratePNToLID(ctx, users[i], users[i+2]))
		},
	)
	return slices.Concat(all, s.preKeyActions(), s.appStateActions(), s.contactActions(), s.newestActions())
}

// reload closes both and opens them again, ours in a new term.
func (s *sides) reload() {
	if rapid.IntRange(0, 3).Draw(s.t, "reload") > 0 {
		return
	}
	s.reopen()
	require.Equal(s.t, *s.theirs.ID, *s.ours.ID)
	// Sessions here are no sessions, so they are written again, which counts
	// as known to parse.
	for _, a := range addresses {
		v, err := s.theirs.Sessions.GetSession(context.Background(), a)
		require.NoError(s.t, err)
		if v != nil {
			require.NoError(s.t, s.ours.Sessions.PutSession(context.Background(), a, v))
		}
	}
}
