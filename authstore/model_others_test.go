package authstore

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
	"pgregory.net/rapid"
)

// others are the calls that whatsmeow makes outside of transactions only.
func (m *modelled) others(sessions []string) []func() {
	user := func() types.JID { return drawn(m, "user", modelUsers) }
	return slices.Concat(m.sends(sessions), m.keyCalls(), m.appStateCalls(), m.nameCalls(user), []func(){
		func() { m.sent("wa") },
		func() { m.sent("fb") },
		func() { m.outgoing(user().String()) },
		func() {
			id, v, durable := drawn(m, "entry", []string{"one", "two"}), m.text("entry"), rapid.Bool().Draw(m.T, "durable")
			require.NoError(m, m.c.PutMessageEntry(bg, id, []byte(v), durable))
			m.want.book[id] = v
		},
		func() {
			id := drawn(m, "entry", []string{"one", "two"})
			require.NoError(m, m.c.PutMessageEntry(bg, id, nil, rapid.Bool().Draw(m.T, "durable")))
			delete(m.want.book, id)
		},
		func() {
			v := m.text("salt")
			require.NoError(m, storeOf(m.d).PutNCTSalt(bg, []byte(v)))
			m.want.salt = v
		},
		func() {
			require.NoError(m, storeOf(m.d).DeleteNCTSalt(bg))
			m.want.salt = ""
		},
		func() {
			m.d.PushName = m.text("our name")
			require.NoError(m, m.d.Save(bg))
			m.want.pushName = m.d.PushName
		},
		func() {
			cutoff := time.Unix(m.clock-int64(rapid.IntRange(0, 4).Draw(m.T, "cutoff")), 0)
			n, err := storeOf(m.d).DeleteExpiredPrivacyTokens(bg, cutoff)
			require.NoError(m, err)
			before := len(m.want.tokens)
			maps.DeleteFunc(m.want.tokens, func(_ types.JID, p store.PrivacyToken) bool { return p.Timestamp.Before(cutoff) })
			require.EqualValues(m, before-len(m.want.tokens), n)
		},
		func() {
			lid, pn := user(), user()
			err := m.d.LIDs.PutLIDMapping(bg, lid, pn)
			if ok := lid.Server == types.HiddenUserServer && pn.Server == types.DefaultUserServer; !ok {
				require.Error(m, err)
				return
			}
			require.NoError(m, err)
			m.mapped(lid, pn)
		},
		m.counts,
	})
}

func (m *modelled) mapped(lid, pn types.JID) {
	delete(m.want.lidOf, m.want.pnOf[lid.User])
	delete(m.want.pnOf, m.want.lidOf[pn.User])
	m.want.lidOf[pn.User], m.want.pnOf[lid.User] = lid.User, pn.User
}

func (m *modelled) sends(sessions []string) []func() {
	return []func(){
		func() {
			list := rapid.SliceOfNDistinct(rapid.SampledFrom(modelAddresses), 0, 5, rapid.ID).Draw(m.T, "addresses")
			late := false // a number that moved to its LID meanwhile
			for _, a := range list {
				number, _, _ := strings.Cut(a, ":")
				_, known := m.want.lidOf[number]
				late = late || m.moved[number] && known
			}
			got, err := m.d.Sessions.GetManySessions(bg, list)
			if late {
				require.ErrorIs(m, err, ErrWindowBroken)
				return
			}
			require.NoError(m, err)
			require.Len(m, got, len(list))
			put := make(map[string][]byte)
			for _, a := range list {
				want, ok := m.want.sessions[a]
				m.equal(want, ok, got[a], nil, "session", a)
				if rapid.Bool().Draw(m.T, "dirty") {
					v := drawn(m, "session", sessions)
					put[a], m.want.sessions[a] = []byte(v), v
				}
			}
			if len(put) > 0 {
				require.NoError(m, m.d.Sessions.PutManySessions(bg, put))
			}
		},
		func() {
			u := drawn(m, "number or LID", []string{"15550002", "900002", "15550003", "15550004"})
			users := []string{u, u + "_1"}
			if lid, ok := m.want.lidOf[u]; ok {
				users = append(users, lid+"_1")
			}
			if pn, ok := m.want.pnOf[u]; ok {
				users = append(users, pn)
			}
			ours := func(a, _ string) bool { name, _, _ := strings.Cut(a, ":"); return slices.Contains(users, name) }
			if rapid.Bool().Draw(m.T, "identities") {
				require.NoError(m, m.d.Identities.DeleteAllIdentities(bg, u))
				maps.DeleteFunc(m.want.identities, ours)
				return
			}
			require.NoError(m, m.d.Sessions.DeleteAllSessions(bg, u))
			maps.DeleteFunc(m.want.sessions, ours)
		},
		func() {
			pn, lid := drawn(m, "from", modelUsers[:2]), drawn(m, "to", modelUsers[2:4])
			from, to := pn.User+":", lid.User+"_1:"
			a := from + "0" // without an identity there are no sender keys
			if !m.moved[pn.User] {
				require.NoError(m, m.d.Identities.PutIdentity(bg, a, [32]byte{1}))
				m.want.identities[a] = "\x01" + strings.Repeat("\x00", 31)
			}
			require.NoError(m, m.d.Sessions.MigratePNToLID(bg, pn, lid))
			if m.moved[pn.User] {
				return
			}
			m.moved[pn.User] = true
			for _, rows := range []map[string]string{m.want.sessions, m.want.identities, m.want.senderKeys} {
				for id, v := range maps.Clone(rows) {
					if rest, ok := strings.CutPrefix(id, from); ok {
						delete(rows, id)
						rows[to+rest] = v
					}
				}
			}
		},
	}
}

// sent keeps a message that goes to one chat under one id.
func (m *modelled) sent(format string) {
	chat := drawn(m, "chat", modelUsers)
	id, v := format+chat.String(), m.text("plaintext")
	if old, ok := m.want.sent[id]; ok {
		v = old[1] // sent again, it is the same message
	}
	if rapid.Bool().Draw(m.T, "from a device") {
		chat.Device = 3
	}
	require.NoError(m, storeOf(m.d).AddOutgoingEvent(bg, chat, id, format, []byte(v)))
	m.want.sent[id] = [2]string{format, v}
}

func (m *modelled) outgoing(chat string) {
	jid, _ := types.ParseJID(chat)
	elsewhere := types.NewJID("elsewhere", types.GroupServer)
	for _, format := range []string{"wa", "fb"} {
		want := m.want.sent[format+chat]
		for _, chats := range [][2]types.JID{{jid, {}}, {elsewhere, jid}, {jid, elsewhere}} {
			got, plaintext, err := storeOf(m.d).GetOutgoingEvent(bg, chats[0], chats[1], format+chat)
			require.NoError(m, err)
			require.Equal(m, want[0], got, "%s to %s", format, chat)
			require.True(m, want[1] == string(plaintext), "%s to %s: another plaintext", format, chat)
		}
		got, _, err := storeOf(m.d).GetOutgoingEvent(bg, elsewhere, types.JID{}, format+chat)
		require.NoError(m, err)
		require.Empty(m, got)
	}
}

func (m *modelled) event(h [32]byte) {
	got, err := m.d.EventBuffer.GetBufferedEvent(m.ctx, h)
	require.NoError(m, err)
	open, isOpen := m.want.open[h]
	seen, isSeen := m.want.seen[h]
	require.Equal(m, isOpen || isSeen, got != nil, "event %d", h[0])
	if isOpen {
		require.True(m, open.plaintext == string(got.Plaintext))
		require.Equal(m, open.server, got.ServerTime.Unix())
	} else if isSeen {
		require.Nil(m, got.Plaintext)
		require.Equal(m, seen.server, got.ServerTime.Unix())
	}
	if got != nil {
		require.WithinDuration(m, time.Now(), got.InsertTime, 3*time.Hour)
	}
}

func (m *modelled) secret(chat, sender types.JID, id string) {
	got, who, err := m.d.MsgSecrets.GetMessageSecret(m.ctx, chat, sender, id)
	for _, c := range m.want.namesOf(chat) {
		for _, u := range m.want.namesOf(sender) {
			if want, ok := m.want.secrets[[3]string{c.String(), u.String(), id}]; ok {
				m.equal(want, true, got, err, "secret", chat, sender, id)
				require.Equal(m, u, who)
				return
			}
		}
	}
	m.equal("", false, got, err, "secret", chat, sender, id)
}

func (m *modelled) lid(u types.JID) {
	u.Device = 4
	other, otherWay := m.d.LIDs.GetLIDForPN, m.d.LIDs.GetPNForLID
	known, server := m.want.lidOf, types.HiddenUserServer
	if u.Server == types.HiddenUserServer {
		other, otherWay = otherWay, other
		known, server = m.want.pnOf, types.DefaultUserServer
	}
	_, err := otherWay(m.ctx, u)
	require.Error(m, err, "not a name of that kind")
	got, err := other(m.ctx, u)
	require.NoError(m, err)
	want, ok := known[u.User]
	if !ok {
		require.True(m, got.IsEmpty())
	} else {
		require.Equal(m, types.JID{User: want, Device: 4, Server: server}, got)
	}
	many, err := m.d.LIDs.GetManyLIDsForPNs(m.ctx, []types.JID{u})
	require.NoError(m, err)
	_, ok = many[u]
	require.Equal(m, u.Server == types.DefaultUserServer && known[u.User] != "", ok)
}

func (m *modelled) token(u types.JID) {
	got, err := m.d.PrivacyTokens.GetPrivacyToken(m.ctx, u)
	require.NoError(m, err)
	var best *store.PrivacyToken
	for _, name := range m.want.namesOf(u) {
		if p, ok := m.want.tokens[name]; ok && (best == nil || p.Timestamp.After(best.Timestamp)) {
			best = &p
		}
	}
	require.Equal(m, best != nil, got != nil)
	if best != nil {
		require.Equal(m, u, got.User)
		require.True(m, bytesEqual(best.Token, got.Token))
		require.Equal(m, best.Timestamp.Unix(), got.Timestamp.Unix())
	}
}

func bytesEqual(a, b []byte) bool { return string(a) == string(b) }

func (m *modelled) collection(name string) {
	version, hash, err := m.d.AppState.GetAppStateVersion(bg, name)
	require.NoError(m, err)
	require.Equal(m, m.want.versions[name], version, name)
	require.Equal(m, [128]byte{byte(version)}, hash, name)
	for _, i := range []string{"1", "2", "3", "4"} {
		i = strings.Repeat(i, 32)
		got, err := m.d.AppState.GetAppStateMutationMAC(bg, name, []byte(i))
		want, ok := m.want.macs[[2]string{name, i}]
		m.equal(want, ok, got, err, "MAC", name, i[:1])
	}
}

// counts compares what Info counts.
func (m *modelled) counts() {
	for _, name := range modelCollections {
		m.collection(name) // what is staged does not count yet
	}
	info, err := m.c.Info(bg)
	require.NoError(m, err)
	require.True(m, info.Exists)
	require.False(m, info.Deleted)
	require.Equal(m, testJID(1), info.JID)
	for kind, n := range map[Kind]int{
		"session": len(m.want.sessions), "identity": len(m.want.identities), "prekey": len(m.want.preKeys), "contact": len(m.want.contacts),
		"chat": len(m.want.chats), "token": len(m.want.tokens), "lid": len(m.want.lidOf), "event": len(m.want.open), "seen": len(m.want.seen),
		"message": len(m.want.book), "appkey": len(m.want.appKeys), "appstate": len(m.want.versions), "device": 1,
	} {
		require.Equal(m, n, info.Counts[kind], "%s", kind)
	}
}

// all compares everything, as it is when a client has had its first message.
func (m *modelled) all() {
	require.NoError(m, m.d.EventBuffer.DeleteOldBufferedHashes(bg)) // and what else is old
	for _, a := range modelAddresses {
		got, err := m.d.Sessions.GetSession(bg, a)
		want, ok := m.want.sessions[a]
		m.equal(want, ok, got, err, "session", a)
		for _, g := range modelGroups {
			got, err := m.d.SenderKeys.GetSenderKey(bg, g, a)
			want, ok := m.want.senderKeys[a+"|"+g]
			m.equal(want, ok, got, err, "sender key", a, g)
		}
		want, ok = m.want.identities[a]
		same, err := m.d.Identities.IsTrustedIdentity(bg, a, [32]byte([]byte(want+strings.Repeat("\x00", 32-len(want)))))
		require.NoError(m, err)
		require.True(m, same, "identity %s", a)
		other, err := m.d.Identities.IsTrustedIdentity(bg, a, [32]byte{99})
		require.NoError(m, err)
		require.Equal(m, !ok, other, "identity %s", a)
	}
	for n := range 5 {
		m.event([32]byte{byte(n)})
	}
	for _, u := range modelUsers {
		m.lid(u)
		m.token(u)
		m.outgoing(u.String())
		for _, sender := range modelUsers {
			m.secret(u, sender, "A")
			m.secret(u, sender, "B/\x00x")
		}
		c, err := m.d.Contacts.GetContact(bg, u)
		require.NoError(m, err)
		require.Equal(m, m.want.contacts[u], c, u)
		s, err := m.d.ChatSettings.GetChatSettings(bg, u)
		require.NoError(m, err)
		require.Equal(m, m.want.chats[u], s, u)
	}
	contacts, err := m.d.Contacts.GetAllContacts(bg)
	require.NoError(m, err)
	require.Equal(m, m.want.contacts, contacts)
	var keys []store.AppStateSyncKey
	newest := ""
	for id, k := range m.want.appKeys {
		got, err := m.d.AppStateKeys.GetAppStateSyncKey(bg, []byte(id))
		require.NoError(m, err)
		require.Equal(m, k, *got)
		keys = append(keys, k)
		if old, ok := m.want.appKeys[newest]; !ok || k.Timestamp > old.Timestamp || k.Timestamp == old.Timestamp && id > newest {
			newest = id
		}
	}
	id, err := m.d.AppStateKeys.GetLatestAppStateSyncKeyID(bg)
	m.equal(newest, len(keys) > 0, id, err, "the newest key")
	list, err := storeOf(m.d).GetAllAppStateSyncKeys(bg)
	require.NoError(m, err)
	require.Len(m, list, len(keys))
	require.True(m, slices.IsSortedFunc(list, func(a, b *store.AppStateSyncKey) int { return int(b.Timestamp - a.Timestamp) }))
	uploaded := 0
	for id, want := range m.want.preKeys {
		k, err := m.d.PreKeys.GetPreKey(bg, id)
		require.NoError(m, err)
		require.NotNil(m, k, "prekey %d", id)
		require.Equal(m, want.public, *k.Pub)
		if want.uploaded {
			uploaded++
		}
	}
	n, err := m.d.PreKeys.UploadedPreKeyCount(bg)
	require.NoError(m, err)
	require.Equal(m, uploaded, n)
	salt, err := storeOf(m.d).GetNCTSalt(bg)
	m.equal(m.want.salt, m.want.salt != "", salt, err, "salt")
	entries, err := m.c.MessageEntries(bg)
	require.NoError(m, err)
	require.Equal(m, fmt.Sprint(m.want.book), fmt.Sprint(asTexts(entries)))
	require.Equal(m, m.want.pushName, m.d.PushName)
	require.Equal(m, testJID(1), *m.d.ID)
	m.counts()
}

func asTexts(m map[string][]byte) map[string]string {
	out := make(map[string]string)
	for k, v := range m {
		out[k] = string(v)
	}
	return out
}
