package sqlcompare

import (
	"context"
	"fmt"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/util/keys"
	"pgregory.net/rapid"
)

// senderKey is one that parses, with a random mark in it.
func (s *sides) senderKey() []byte {
	return fmt.Appendf(nil, `{"SenderKeyStates":[],"Mark":"%x"}`, s.bytes("key"))
}

func ids(ks []*keys.PreKey) (out []uint32) {
	for _, k := range ks {
		out = append(out, k.KeyID)
	}
	return out
}

// preKeyActions keep the highest key: sqlstore would use its id again.
func (s *sides) preKeyActions() []func() {
	ctx := context.Background()
	return []func(){
		func() {
			n := uint32(rapid.IntRange(0, 5).Draw(s.t, "n"))
			x, e1 := s.ours.PreKeys.GetOrGenPreKeys(ctx, n)
			y, e2 := s.theirs.PreKeys.GetOrGenPreKeys(ctx, n)
			agree(s, "GetOrGenPreKeys", ids(x), ids(y), e1, e2)
			for _, k := range y {
				s.lastPre = max(s.lastPre, k.KeyID)
			}
		},
		func() {
			x, e1 := s.ours.PreKeys.GenOnePreKey(ctx)
			y, e2 := s.theirs.PreKeys.GenOnePreKey(ctx)
			agree(s, "GenOnePreKey", x.KeyID, y.KeyID, e1, e2)
			s.lastPre = max(s.lastPre, y.KeyID)
		},
		func() {
			id := uint32(rapid.IntRange(0, int(s.lastPre)+1).Draw(s.t, "id"))
			x, e1 := s.ours.PreKeys.GetPreKey(ctx, id)
			y, e2 := s.theirs.PreKeys.GetPreKey(ctx, id)
			agree(s, "GetPreKey", x == nil, y == nil, e1, e2)
		},
		func() {
			id := uint32(rapid.IntRange(0, int(s.lastPre)+1).Draw(s.t, "id"))
			if id == s.lastPre {
				return
			}
			agree(s, "RemovePreKey", 0, 0, s.ours.PreKeys.RemovePreKey(ctx, id), s.theirs.PreKeys.RemovePreKey(ctx, id))
		},
		func() {
			id := uint32(rapid.IntRange(0, int(s.lastPre)+5).Draw(s.t, "id"))
			agree(s, "MarkPreKeysAsUploaded", 0, 0, s.ours.PreKeys.MarkPreKeysAsUploaded(ctx, id), s.theirs.PreKeys.MarkPreKeysAsUploaded(ctx, id))
		},
		func() {
			x, e1 := s.ours.PreKeys.UploadedPreKeyCount(ctx)
			y, e2 := s.theirs.PreKeys.UploadedPreKeyCount(ctx)
			agree(s, "UploadedPreKeyCount", x, y, e1, e2)
		},
	}
}

func (s *sides) appStateActions() []func() {
	ctx := context.Background()
	names := []string{"regular", "critical_block"}
	mac := func(label string) []byte {
		b := make([]byte, 32)
		b[0] = rapid.ByteRange(0, 4).Draw(s.t, label)
		return b
	}
	return []func(){
		func() {
			id := []byte{rapid.ByteRange(0, 3).Draw(s.t, "id")}
			k := store.AppStateSyncKey{Data: s.bytes("data"), Fingerprint: s.bytes("fp"), Timestamp: int64(rapid.IntRange(0, 1000).Draw(s.t, "ts"))}
			agree(s, "PutAppStateSyncKey", 0, 0, s.ours.AppStateKeys.PutAppStateSyncKey(ctx, id, k), s.theirs.AppStateKeys.PutAppStateSyncKey(ctx, id, k))
		},
		func() {
			id := []byte{rapid.ByteRange(0, 3).Draw(s.t, "id")}
			x, e1 := s.ours.AppStateKeys.GetAppStateSyncKey(ctx, id)
			y, e2 := s.theirs.AppStateKeys.GetAppStateSyncKey(ctx, id)
			agree(s, "GetAppStateSyncKey", x, y, e1, e2)
		},
		func() {
			x, e1 := s.ours.AppStateKeys.GetLatestAppStateSyncKeyID(ctx)
			y, e2 := s.theirs.AppStateKeys.GetLatestAppStateSyncKeyID(ctx)
			agree(s, "GetLatestAppStateSyncKeyID", x == nil, y == nil, e1, e2)
			if x != nil {
				a, _ := s.ours.AppStateKeys.GetAppStateSyncKey(ctx, x)
				b, _ := s.theirs.AppStateKeys.GetAppStateSyncKey(ctx, y)
				require.Equal(s.t, b.Timestamp, a.Timestamp)
			}
		},
		func() { // a patch, as whatsmeow stores one
			name := pick(s, "name", names)
			s.macs[name]++
			v := s.macs[name]
			var hash [128]byte
			hash[0] = byte(v)
			agree(s, "PutAppStateVersion", 0, 0, s.ours.AppState.PutAppStateVersion(ctx, name, v, hash), s.theirs.AppState.PutAppStateVersion(ctx, name, v, hash))
			var gone [][]byte
			for range rapid.IntRange(0, 2).Draw(s.t, "removed") {
				gone = append(gone, mac("index"))
			}
			agree(s, "DeleteAppStateMutationMACs", 0, 0, s.ours.AppState.DeleteAppStateMutationMACs(ctx, name, gone), s.theirs.AppState.DeleteAppStateMutationMACs(ctx, name, gone))
			var added []store.AppStateMutationMAC
			seen := make(map[byte]bool)
			for range rapid.IntRange(0, 3).Draw(s.t, "added") {
				if i := mac("index"); !seen[i[0]] {
					seen[i[0]] = true
					added = append(added, store.AppStateMutationMAC{IndexMAC: i, ValueMAC: mac("value")})
				}
			}
			agree(s, "PutAppStateMutationMACs", 0, 0, s.ours.AppState.PutAppStateMutationMACs(ctx, name, v, added), s.theirs.AppState.PutAppStateMutationMACs(ctx, name, v, added))
		},
		func() {
			name := pick(s, "name", names)
			x, h1, e1 := s.ours.AppState.GetAppStateVersion(ctx, name)
			y, h2, e2 := s.theirs.AppState.GetAppStateVersion(ctx, name)
			agree(s, "GetAppStateVersion", x, y, e1, e2)
			require.Equal(s.t, h2, h1)
		},
		func() {
			name, i := pick(s, "name", names), mac("index")
			x, e1 := s.ours.AppState.GetAppStateMutationMAC(ctx, name, i)
			y, e2 := s.theirs.AppState.GetAppStateMutationMAC(ctx, name, i)
			agree(s, "GetAppStateMutationMAC", x, y, e1, e2)
		},
		func() {
			name := pick(s, "name", names)
			agree(s, "DeleteAppStateVersion", 0, 0, s.ours.AppState.DeleteAppStateVersion(ctx, name), s.theirs.AppState.DeleteAppStateVersion(ctx, name))
		},
	}
}

func (s *sides) contactActions() []func() {
	ctx := context.Background()
	name := func(label string) string { return pick(s, label, []string{"", "Ann", "Bob", "Ü"}) }
	user := func() types.JID { return pick(s, "user", users[:4]) }
	distinct := func() []types.JID {
		return rapid.SliceOfNDistinct(rapid.SampledFrom(users[:4]), 0, 3, types.JID.String).Draw(s.t, "users")
	}
	type changed struct {
		changed  bool
		previous string
	}
	return []func(){
		func() {
			u, n := user(), name("push")
			c1, p1, e1 := s.ours.Contacts.PutPushName(ctx, u, n)
			c2, p2, e2 := s.theirs.Contacts.PutPushName(ctx, u, n)
			agree(s, "PutPushName", changed{c1, p1}, changed{c2, p2}, e1, e2)
		},
		func() {
			u, n := user(), name("business")
			c1, p1, e1 := s.ours.Contacts.PutBusinessName(ctx, u, n)
			c2, p2, e2 := s.theirs.Contacts.PutBusinessName(ctx, u, n)
			agree(s, "PutBusinessName", changed{c1, p1}, changed{c2, p2}, e1, e2)
		},
		func() {
			u, a, b := user(), name("a"), name("b")
			agree(s, "PutContactName", 0, 0, s.ours.Contacts.PutContactName(ctx, u, a, b), s.theirs.Contacts.PutContactName(ctx, u, a, b))
		},
		func() {
			var es []store.ContactEntry
			for _, u := range distinct() {
				es = append(es, store.ContactEntry{JID: u, FirstName: name("first"), FullName: name("full")})
			}
			mine := append([]store.ContactEntry(nil), es...)
			agree(s, "PutAllContactNames", 0, 0, s.ours.Contacts.PutAllContactNames(ctx, mine), s.theirs.Contacts.PutAllContactNames(ctx, es))
		},
		func() {
			var es []store.RedactedPhoneEntry
			for _, u := range distinct() {
				es = append(es, store.RedactedPhoneEntry{JID: u, RedactedPhone: pick(s, "phone", []string{"+1∙∙∙", "+2∙∙∙"})})
			}
			mine := append([]store.RedactedPhoneEntry(nil), es...)
			agree(s, "PutManyRedactedPhones", 0, 0, s.ours.Contacts.PutManyRedactedPhones(ctx, mine), s.theirs.Contacts.PutManyRedactedPhones(ctx, es))
		},
		func() {
			u := user()
			x, e1 := s.ours.Contacts.GetContact(ctx, u)
			y, e2 := s.theirs.Contacts.GetContact(ctx, u)
			agree(s, "GetContact", x, y, e1, e2)
		},
		func() {
			x, e1 := s.ours.Contacts.GetAllContacts(ctx)
			y, e2 := s.theirs.Contacts.GetAllContacts(ctx)
			agree(s, "GetAllContacts", x, y, e1, e2)
		},
		func() {
			u, at := user(), pick(s, "until", []time.Time{{}, store.MutedForever, time.Unix(5000, 0)})
			agree(s, "PutMutedUntil", 0, 0, s.ours.ChatSettings.PutMutedUntil(ctx, u, at), s.theirs.ChatSettings.PutMutedUntil(ctx, u, at))
		},
		func() {
			u, v := user(), rapid.Bool().Draw(s.t, "v")
			agree(s, "PutPinned", 0, 0, s.ours.ChatSettings.PutPinned(ctx, u, v), s.theirs.ChatSettings.PutPinned(ctx, u, v))
		},
		func() {
			u, v := user(), rapid.Bool().Draw(s.t, "v")
			agree(s, "PutArchived", 0, 0, s.ours.ChatSettings.PutArchived(ctx, u, v), s.theirs.ChatSettings.PutArchived(ctx, u, v))
		},
		func() {
			u := user()
			x, e1 := s.ours.ChatSettings.GetChatSettings(ctx, u)
			y, e2 := s.theirs.ChatSettings.GetChatSettings(ctx, u)
			agree(s, "GetChatSettings", x, y, e1, e2)
		},
		func() {
			c, u, id, v := user(), user(), pick(s, "id", []string{"A", "B/\x00x"}), s.bytes("secret")
			agree(s, "PutMessageSecret", 0, 0, s.ours.MsgSecrets.PutMessageSecret(ctx, c, u, id, v), s.theirs.MsgSecrets.PutMessageSecret(ctx, c, u, id, v))
		},
		func() {
			c, u, id := user(), user(), pick(s, "id", []string{"A", "B/\x00x"})
			x, s1, e1 := s.ours.MsgSecrets.GetMessageSecret(ctx, c, u, id)
			y, s2, e2 := s.theirs.MsgSecrets.GetMessageSecret(ctx, c, u, id)
			agree(s, "GetMessageSecret", x == nil, y == nil, e1, e2)
			altC, _ := s.theirs.GetAltJID(ctx, c)
			altU, _ := s.theirs.GetAltJID(ctx, u)
			if altC.IsEmpty() && altU.IsEmpty() { // of several candidates sqlstore names any
				equalBytes(s, "GetMessageSecret", x, y)
				require.Equal(s.t, s2, s1)
			}
		},
		func() {
			u := user()
			at := time.Now().Add(time.Duration(len(s.aliases)) * time.Second) // never older
			s.aliases[at.String()] = ""
			tok := store.PrivacyToken{User: u, Token: s.bytes("token"), Timestamp: at}
			agree(s, "PutPrivacyTokens", 0, 0, s.ours.PrivacyTokens.PutPrivacyTokens(ctx, tok), s.theirs.PrivacyTokens.PutPrivacyTokens(ctx, tok))
		},
		func() {
			u := user()
			x, e1 := s.ours.PrivacyTokens.GetPrivacyToken(ctx, u)
			y, e2 := s.theirs.PrivacyTokens.GetPrivacyToken(ctx, u)
			agree(s, "GetPrivacyToken", x, y, e1, e2)
		},
		func() {
			m := pick(s, "mapping", lids)
			agree(s, "PutLIDMapping", 0, 0, s.ours.LIDs.PutLIDMapping(ctx, m.LID, m.PN), s.theirs.LIDs.PutLIDMapping(ctx, m.LID, m.PN))
		},
		func() {
			var a, b []store.LIDMapping
			for range rapid.IntRange(0, 3).Draw(s.t, "n") {
				m := pick(s, "mapping", lids)
				a, b = append(a, m), append(b, m)
			}
			agree(s, "PutManyLIDMappings", 0, 0, s.ours.LIDs.PutManyLIDMappings(ctx, a), s.theirs.LIDs.PutManyLIDMappings(ctx, b))
		},
		func() {
			u := pick(s, "user", users)
			x, e1 := s.ours.LIDs.GetLIDForPN(ctx, u)
			y, e2 := s.theirs.LIDs.GetLIDForPN(ctx, u)
			agree(s, "GetLIDForPN", x, y, e1, e2)
			x, e1 = s.ours.LIDs.GetPNForLID(ctx, u)
			y, e2 = s.theirs.LIDs.GetPNForLID(ctx, u)
			agree(s, "GetPNForLID", x, y, e1, e2)
		},
		func() { // non-AD only: sqlstore loses the device on a cold cache
			us := rapid.SliceOfN(rapid.SampledFrom(users[:4]), 0, 3).Draw(s.t, "users")
			x, e1 := s.ours.LIDs.GetManyLIDsForPNs(ctx, us)
			y, e2 := s.theirs.LIDs.GetManyLIDsForPNs(ctx, us)
			agree(s, "GetManyLIDsForPNs", x, y, e1, e2)
		},
		func() {
			s.ours.PushName, s.theirs.PushName = "me", "me"
			agree(s, "PutDevice", 0, 0, s.ours.Save(ctx), s.theirs.Save(ctx))
		},
		func() {
			agree(s, "DeleteOldBufferedHashes", 0, 0, s.ours.EventBuffer.DeleteOldBufferedHashes(ctx), s.theirs.EventBuffer.DeleteOldBufferedHashes(ctx))
		},
	}
}
