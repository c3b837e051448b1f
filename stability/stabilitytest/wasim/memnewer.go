package wasim

import (
	"context"
	"reflect"
	"slices"
	"time"

	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// Newer versions of whatsmeow ask more of a store than the one that go.mod
// names: the methods and the fields of this file.

type outgoingKey struct {
	Chat types.JID
	ID   types.MessageID
}

type outgoing struct {
	Format    string
	Plaintext []byte
	At        time.Time
}

// attachNewer gives a device the stores that this package's whatsmeow does not
// know by name.
func (m *memStore) attachNewer(d *store.Device) {
	v, self := reflect.ValueOf(d).Elem(), reflect.ValueOf(m)
	for i := range v.NumField() {
		f := v.Field(i)
		if v.Type().Field(i).IsExported() && f.Kind() == reflect.Interface && f.IsNil() &&
			f.Type().NumMethod() > 0 && self.Type().Implements(f.Type()) {
			f.Set(self)
		}
	}
}

// senderTime is the time at which a newer client told a contact's token, or
// nil where the token has no such field.
func senderTime(t *store.PrivacyToken) *time.Time {
	f := reflect.ValueOf(t).Elem().FieldByName("SenderTimestamp")
	if !f.IsValid() {
		return nil
	}
	at, _ := f.Addr().Interface().(*time.Time)
	return at
}

func (m *memStore) DeleteExpiredPrivacyTokens(_ context.Context, cutoff time.Time) (n int64, _ error) {
	defer m.lock()()
	for k, t := range m.tokens {
		if t.Timestamp.Before(cutoff) {
			delete(m.tokens, k)
			n++
		}
	}
	return n, nil
}

func (m *memStore) PutNCTSalt(_ context.Context, salt []byte) error {
	defer m.lock()()
	m.nctSalt = slices.Clone(salt)
	return nil
}

func (m *memStore) GetNCTSalt(context.Context) ([]byte, error) {
	defer m.lock()()
	return slices.Clone(m.nctSalt), nil
}

func (m *memStore) DeleteNCTSalt(context.Context) error {
	defer m.lock()()
	m.nctSalt = nil
	return nil
}

func (m *memStore) AddOutgoingEvent(_ context.Context, chat types.JID, id types.MessageID, format string, plaintext []byte) error {
	defer m.lock()()
	m.outgoing[outgoingKey{chat, id}] = outgoing{format, slices.Clone(plaintext), time.Now()}
	return nil
}

// GetOutgoingEvent looks under both names of the chat. Missing: empty, nil.
func (m *memStore) GetOutgoingEvent(_ context.Context, chat, alt types.JID, id types.MessageID) (string, []byte, error) {
	defer m.lock()()
	for _, j := range []types.JID{chat, alt} {
		if o, ok := m.outgoing[outgoingKey{j, id}]; ok {
			return o.Format, slices.Clone(o.Plaintext), nil
		}
	}
	return "", nil, nil
}

func (m *memStore) DeleteOldOutgoingEvents(context.Context) error {
	defer m.lock()()
	for k, o := range m.outgoing {
		if time.Since(o.At) > 7*24*time.Hour {
			delete(m.outgoing, k)
		}
	}
	return nil
}
