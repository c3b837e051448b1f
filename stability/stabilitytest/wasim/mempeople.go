package wasim

import (
	"context"
	"time"

	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

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
	for _, c := range m.lids.twins(chat.ToNonAD()) {
		for _, s := range m.lids.twins(sender.ToNonAD()) {
			if secret, ok := m.secrets[memSecretKey{c, s, id}]; ok {
				return secret, s, nil
			}
		}
	}
	return nil, types.EmptyJID, nil
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
	for _, j := range m.lids.twins(user.ToNonAD()) {
		if t, ok := m.tokens[j]; ok && (best == nil || t.Timestamp.After(best.Timestamp)) {
			t.User = user
			best = &t
		}
	}
	return best, nil
}
