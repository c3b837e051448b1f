package authstore

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
	"pgregory.net/rapid"
)

func (m *modelled) keyCalls() []func() {
	check := func(id uint32, want preKeyExpected) {
		k, err := m.d.PreKeys.GetPreKey(bg, id)
		require.NoError(m, err)
		require.NotNil(m, k, "prekey %d", id)
		require.Equal(m, want.public, *k.Pub)
	}
	return []func(){
		func() {
			n := rapid.IntRange(0, 5).Draw(m.T, "n")
			got, err := m.d.PreKeys.GetOrGenPreKeys(bg, uint32(n))
			require.NoError(m, err)
			require.Len(m, got, n)
			var fresh []uint32
			for id, k := range m.want.preKeys {
				if !k.uploaded {
					fresh = append(fresh, id)
				}
			}
			slices.Sort(fresh)
			for i, k := range got {
				if i < len(fresh) {
					require.Equal(m, fresh[i], k.KeyID)
					require.Equal(m, m.want.preKeys[k.KeyID].public, *k.Pub)
					continue
				}
				require.Equal(m, m.want.nextPreKey, k.KeyID)
				m.want.nextPreKey++
				m.want.preKeys[k.KeyID] = preKeyExpected{public: *k.Pub}
			}
		},
		func() {
			k, err := m.d.PreKeys.GenOnePreKey(bg)
			require.NoError(m, err)
			require.Equal(m, m.want.nextPreKey, k.KeyID)
			m.want.nextPreKey++
			m.want.preKeys[k.KeyID] = preKeyExpected{*k.Pub, true}
		},
		func() {
			m.marked(uint32(rapid.IntRange(0, int(m.want.nextPreKey)).Draw(m.T, "up to")))
		},
		func() {
			uploaded := 0
			for id, k := range m.want.preKeys {
				check(id, k)
				if k.uploaded {
					uploaded++
				}
			}
			n, err := m.d.PreKeys.UploadedPreKeyCount(bg)
			require.NoError(m, err)
			require.Equal(m, uploaded, n)
		},
		func() {
			id := []byte{rapid.ByteRange(0, 2).Draw(m.T, "key id")}
			k := store.AppStateSyncKey{Data: []byte(m.text("data")), Fingerprint: []byte{1}, Timestamp: int64(rapid.IntRange(0, 9).Draw(m.T, "at"))}
			require.NoError(m, m.d.AppStateKeys.PutAppStateSyncKey(bg, id, k))
			if old, ok := m.want.appKeys[string(id)]; !ok || k.Timestamp > old.Timestamp {
				m.want.appKeys[string(id)] = k
			}
		},
	}
}

func (m *modelled) appStateCalls() []func() {
	name := func() string { return drawn(m, "collection", modelCollections) }
	index := func() string { return strings.Repeat(drawn(m, "index", []string{"1", "2", "3"}), 32) }
	return []func(){
		func() { // a patch, as whatsmeow stores one
			name := name()
			v := m.want.versions[name] + 1
			require.NoError(m, m.d.AppState.PutAppStateVersion(bg, name, v, [128]byte{byte(v)}))
			m.want.versions[name] = v
			var gone [][]byte
			for range rapid.IntRange(0, 2).Draw(m.T, "removed") {
				i := index()
				gone = append(gone, []byte(i))
				delete(m.want.macs, [2]string{name, i})
			}
			require.NoError(m, m.d.AppState.DeleteAppStateMutationMACs(bg, name, gone))
			var added []store.AppStateMutationMAC
			for range rapid.IntRange(0, 2).Draw(m.T, "added") {
				i, mac := index(), m.text("mac")
				added = append(added, store.AppStateMutationMAC{IndexMAC: []byte(i), ValueMAC: []byte(mac)})
				m.want.macs[[2]string{name, i}] = mac
			}
			require.NoError(m, m.d.AppState.PutAppStateMutationMACs(bg, name, v, added))
		},
		func() { m.collection(name()) },
		func() {
			name := name()
			require.NoError(m, m.d.AppState.DeleteAppStateVersion(bg, name))
			delete(m.want.versions, name)
			maps.DeleteFunc(m.want.macs, func(k [2]string, _ string) bool { return k[0] == name })
		},
	}
}

func (m *modelled) nameCalls(user func() types.JID) []func() {
	edit := func(u types.JID, f func(*types.ContactInfo)) {
		c := m.want.contacts[u]
		if f(&c); c != m.want.contacts[u] || c.Found {
			c.Found = true
			m.want.contacts[u] = c
		}
	}
	chat := func(u types.JID, err error, f func(*types.LocalChatSettings)) {
		require.NoError(m, err)
		c := m.want.chats[u]
		f(&c)
		c.Found = true
		m.want.chats[u] = c
	}
	return []func(){
		func() {
			u, n := user(), drawn(m, "business name", []string{"", "x", "y"})
			changed, before, err := m.d.Contacts.PutBusinessName(bg, u, n)
			require.NoError(m, err)
			old := m.want.contacts[u].BusinessName
			require.Equal(m, old != n, changed)
			if changed {
				require.Equal(m, old, before)
			}
			edit(u, func(c *types.ContactInfo) { c.BusinessName = n })
		},
		func() {
			u, first, full := user(), drawn(m, "first", []string{"", "x"}), drawn(m, "full", []string{"", "y", "z"})
			require.NoError(m, m.d.Contacts.PutContactName(bg, u, first, full))
			edit(u, func(c *types.ContactInfo) { c.FirstName, c.FullName = first, full })
		},
		func() {
			u, first, full := user(), drawn(m, "first", []string{"", "x"}), drawn(m, "full", []string{"", "y", "z"})
			require.NoError(m, m.d.Contacts.PutAllContactNames(bg, []store.ContactEntry{{JID: u, FirstName: first, FullName: full}}))
			edit(u, func(c *types.ContactInfo) { c.FirstName, c.FullName, c.Found = first, full, true })
		},
		func() {
			u, phone := user(), drawn(m, "phone", []string{"+1", "+2"})
			require.NoError(m, m.d.Contacts.PutManyRedactedPhones(bg, []store.RedactedPhoneEntry{{JID: u, RedactedPhone: phone}}))
			edit(u, func(c *types.ContactInfo) { c.RedactedPhone = phone })
		},
		func() {
			u, until := user(), drawn(m, "until", []time.Time{{}, store.MutedForever, time.Unix(5000, 0)})
			chat(u, m.d.ChatSettings.PutMutedUntil(bg, u, until), func(c *types.LocalChatSettings) { c.MutedUntil = until })
		},
		func() {
			u, on := user(), rapid.Bool().Draw(m.T, "on")
			chat(u, m.d.ChatSettings.PutPinned(bg, u, on), func(c *types.LocalChatSettings) { c.Pinned = on })
		},
		func() {
			u, on := user(), rapid.Bool().Draw(m.T, "on")
			chat(u, m.d.ChatSettings.PutArchived(bg, u, on), func(c *types.LocalChatSettings) { c.Archived = on })
		},
	}
}
