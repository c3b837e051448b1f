package wasim

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/util/keys"
)

func (k *memPreKey) key(id uint32) *keys.PreKey {
	if table := firstKeys(); int(id) <= len(table) {
		return &keys.PreKey{KeyPair: table[id-1], KeyID: id}
	}
	return &keys.PreKey{KeyPair: *keys.NewKeyPairFromPrivateKey(k.Priv), KeyID: id}
}

// firstKeys are the one-time prekeys that all memory devices begin with. Each
// uploads 812 at its first login, and making them is most of what a new client
// costs; nothing here depends on their being secret.
var firstKeys = sync.OnceValue(func() []keys.KeyPair {
	out := make([]keys.KeyPair, 812)
	for i := range out {
		out[i] = *keys.NewKeyPair()
	}
	return out
})

func (m *memStore) newPreKey(uploaded bool) *keys.PreKey {
	id := m.nextKey
	m.nextKey++
	var pk *keys.PreKey
	if table := firstKeys(); int(id) <= len(table) {
		pk = &keys.PreKey{KeyPair: table[id-1], KeyID: id}
	} else {
		pk = keys.NewPreKey(id)
	}
	m.prekeys[id] = &memPreKey{Priv: *pk.Priv, Uploaded: uploaded}
	return pk
}

func (m *memStore) GetOrGenPreKeys(_ context.Context, count uint32) ([]*keys.PreKey, error) {
	defer m.lock()()
	var ids []uint32
	for id, k := range m.prekeys {
		if !k.Uploaded {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	var out []*keys.PreKey
	for _, id := range ids {
		if len(out) < int(count) {
			out = append(out, m.prekeys[id].key(id))
		}
	}
	for len(out) < int(count) {
		out = append(out, m.newPreKey(false))
	}
	return out, nil
}

func (m *memStore) GenOnePreKey(context.Context) (*keys.PreKey, error) {
	defer m.lock()()
	return m.newPreKey(true), nil
}

func (m *memStore) GetPreKey(_ context.Context, id uint32) (*keys.PreKey, error) {
	defer m.lock()()
	if k := m.prekeys[id]; k != nil {
		return k.key(id), nil
	}
	return nil, nil
}

func (m *memStore) RemovePreKey(ctx context.Context, id uint32) error {
	defer m.lock()()
	drop(ctx, m.prekeys, id)
	return nil
}

func (m *memStore) MarkPreKeysAsUploaded(_ context.Context, upTo uint32) error {
	defer m.lock()()
	for id, k := range m.prekeys {
		if id <= upTo {
			k.Uploaded = true
		}
	}
	return nil
}

func (m *memStore) UploadedPreKeyCount(context.Context) (n int, _ error) {
	defer m.lock()()
	for _, k := range m.prekeys {
		if k.Uploaded {
			n++
		}
	}
	return n, nil
}

func (m *memStore) PutSenderKey(ctx context.Context, group, user string, session []byte) error {
	defer m.lock()()
	put(ctx, m.senderKeys, [2]string{group, user}, session)
	return nil
}

func (m *memStore) GetSenderKey(_ context.Context, group, user string) ([]byte, error) {
	defer m.lock()()
	return m.senderKeys[[2]string{group, user}], nil
}

func (m *memStore) PutAppStateSyncKey(_ context.Context, id []byte, key store.AppStateSyncKey) error {
	defer m.lock()()
	if old, ok := m.syncKeys[string(id)]; !ok || key.Timestamp > old.Timestamp {
		m.syncKeys[string(id)] = key
	}
	return nil
}

func (m *memStore) GetAppStateSyncKey(_ context.Context, id []byte) (*store.AppStateSyncKey, error) {
	defer m.lock()()
	if k, ok := m.syncKeys[string(id)]; ok {
		return &k, nil
	}
	return nil, nil
}

func (m *memStore) GetLatestAppStateSyncKeyID(context.Context) (id []byte, _ error) {
	defer m.lock()()
	best := int64(-1)
	for k, v := range m.syncKeys {
		if v.Timestamp > best {
			best, id = v.Timestamp, []byte(k)
		}
	}
	return id, nil
}

func (m *memStore) PutAppStateVersion(_ context.Context, name string, version uint64, hash [128]byte) error {
	defer m.lock()()
	m.versions[name] = memVersion{version, hash}
	return nil
}

func (m *memStore) GetAppStateVersion(_ context.Context, name string) (uint64, [128]byte, error) {
	defer m.lock()()
	v := m.versions[name]
	return v.Version, v.Hash, nil
}

func (m *memStore) DeleteAppStateVersion(_ context.Context, name string) error {
	defer m.lock()()
	delete(m.versions, name)
	for k := range m.macs {
		if k[0] == name {
			delete(m.macs, k)
		}
	}
	return nil
}

func (m *memStore) PutAppStateMutationMACs(_ context.Context, name string, _ uint64, list []store.AppStateMutationMAC) error {
	defer m.lock()()
	for _, mac := range list {
		m.macs[[2]string{name, string(mac.IndexMAC)}] = mac.ValueMAC
	}
	return nil
}

func (m *memStore) DeleteAppStateMutationMACs(_ context.Context, name string, index [][]byte) error {
	defer m.lock()()
	for _, i := range index {
		delete(m.macs, [2]string{name, string(i)})
	}
	return nil
}

func (m *memStore) GetAppStateMutationMAC(_ context.Context, name string, index []byte) ([]byte, error) {
	defer m.lock()()
	return m.macs[[2]string{name, string(index)}], nil
}

func (m *memStore) editContact(user types.JID, f func(*types.ContactInfo)) {
	c := m.contacts[user]
	c.Found = true
	f(&c)
	m.contacts[user] = c
}

func (m *memStore) PutPushName(_ context.Context, user types.JID, name string) (bool, string, error) {
	defer m.lock()()
	old := m.contacts[user].PushName
	if old == name {
		return false, "", nil
	}
	m.editContact(user, func(c *types.ContactInfo) { c.PushName = name })
	return true, old, nil
}

func (m *memStore) PutBusinessName(_ context.Context, user types.JID, name string) (bool, string, error) {
	defer m.lock()()
	old := m.contacts[user].BusinessName
	if old == name {
		return false, "", nil
	}
	m.editContact(user, func(c *types.ContactInfo) { c.BusinessName = name })
	return true, old, nil
}

// PutContactName is called with the first name first, whatever the interface says.
func (m *memStore) PutContactName(_ context.Context, user types.JID, first, full string) error {
	defer m.lock()()
	m.editContact(user, func(c *types.ContactInfo) { c.FirstName, c.FullName = first, full })
	return nil
}

func (m *memStore) PutAllContactNames(ctx context.Context, list []store.ContactEntry) error {
	for _, e := range list {
		if err := m.PutContactName(ctx, e.JID, e.FirstName, e.FullName); err != nil {
			return err
		}
	}
	return nil
}

func (m *memStore) PutManyRedactedPhones(_ context.Context, list []store.RedactedPhoneEntry) error {
	defer m.lock()()
	for _, e := range list {
		m.editContact(e.JID, func(c *types.ContactInfo) { c.RedactedPhone = e.RedactedPhone })
	}
	return nil
}

func (m *memStore) GetContact(_ context.Context, user types.JID) (types.ContactInfo, error) {
	defer m.lock()()
	return m.contacts[user], nil
}

func (m *memStore) GetAllContacts(context.Context) (map[types.JID]types.ContactInfo, error) {
	defer m.lock()()
	out := make(map[types.JID]types.ContactInfo, len(m.contacts))
	for k, v := range m.contacts {
		out[k] = v
	}
	return out, nil
}

func (m *memStore) setting(chat types.JID, f func(*types.LocalChatSettings)) error {
	defer m.lock()()
	s := m.settings[chat]
	s.Found = true
	f(&s)
	m.settings[chat] = s
	return nil
}

func (m *memStore) PutMutedUntil(_ context.Context, chat types.JID, until time.Time) error {
	return m.setting(chat, func(s *types.LocalChatSettings) { s.MutedUntil = until })
}

func (m *memStore) PutPinned(_ context.Context, chat types.JID, v bool) error {
	return m.setting(chat, func(s *types.LocalChatSettings) { s.Pinned = v })
}

func (m *memStore) PutArchived(_ context.Context, chat types.JID, v bool) error {
	return m.setting(chat, func(s *types.LocalChatSettings) { s.Archived = v })
}

func (m *memStore) GetChatSettings(_ context.Context, chat types.JID) (types.LocalChatSettings, error) {
	defer m.lock()()
	return m.settings[chat], nil
}

func (m *memStore) PutMessageSecrets(ctx context.Context, list []store.MessageSecretInsert) error {
	for _, i := range list {
		if err := m.PutMessageSecret(ctx, i.Chat, i.Sender, i.ID, i.Secret); err != nil {
			return err
		}
	}
	return nil
}

func (m *memStore) PutMessageSecret(_ context.Context, chat, sender types.JID, id types.MessageID, secret []byte) error {
	defer m.lock()()
	k := memSecretKey{chat.ToNonAD(), sender.ToNonAD(), id}
	if _, ok := m.secrets[k]; !ok {
		m.secrets[k] = secret
	}
	return nil
}

func (m *memStore) GetMessageSecret(_ context.Context, chat, sender types.JID, id types.MessageID) ([]byte, types.JID, error) {
	defer m.lock()()
	for _, c := range m.twins(chat.ToNonAD()) {
		for _, s := range m.twins(sender.ToNonAD()) {
			if secret, ok := m.secrets[memSecretKey{c, s, id}]; ok {
				return secret, s, nil
			}
		}
	}
	return nil, types.EmptyJID, nil
}

func (m *memStore) twins(j types.JID) []types.JID {
	out := []types.JID{j}
	if u := m.lidOf[j.User]; j.Server == types.DefaultUserServer && u != "" {
		out = append(out, types.NewJID(u, types.HiddenUserServer))
	}
	if u := m.pnOf[j.User]; j.Server == types.HiddenUserServer && u != "" {
		out = append(out, types.NewJID(u, types.DefaultUserServer))
	}
	return out
}

func (m *memStore) PutPrivacyTokens(_ context.Context, tokens ...store.PrivacyToken) error {
	defer m.lock()()
	for _, t := range tokens {
		t.User = t.User.ToNonAD()
		if old, ok := m.tokens[t.User]; !ok || !t.Timestamp.Before(old.Timestamp) {
			if sent, was := senderTime(&t), senderTime(&old); sent != nil && sent.IsZero() {
				*sent = *was // as whatsmeow's sqlstore: a notification brings none
			}
			m.tokens[t.User] = t
		}
	}
	return nil
}

func (m *memStore) GetPrivacyToken(_ context.Context, user types.JID) (*store.PrivacyToken, error) {
	defer m.lock()()
	var best *store.PrivacyToken
	for _, j := range m.twins(user.ToNonAD()) {
		if t, ok := m.tokens[j]; ok && (best == nil || t.Timestamp.After(best.Timestamp)) {
			t.User = user
			best = &t
		}
	}
	return best, nil
}
