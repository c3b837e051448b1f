package authstore

import (
	"context"
	"time"

	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// Names and chat settings. All answers are from memory; changes are coalesced
// and at most five seconds old when they become durable.

func contactValue(c types.ContactInfo) []byte {
	var b []byte
	for _, v := range []string{c.FirstName, c.FullName, c.PushName, c.BusinessName, c.RedactedPhone} {
		b = appendBytes(b, []byte(v))
	}
	return b
}

func parseContact(b []byte, ok bool) types.ContactInfo {
	if !ok {
		return types.ContactInfo{}
	}
	f := fields{b: b}
	c := types.ContactInfo{Found: true}
	for _, v := range []*string{&c.FirstName, &c.FullName, &c.PushName, &c.BusinessName, &c.RedactedPhone} {
		*v = string(f.bytes())
	}
	return c
}

// change one contact; edit says whether it did.
func (s *deviceStore) editContact(ctx context.Context, op string, user types.JID, edit func(*types.ContactInfo) bool) error {
	return s.update(ctx, op, lazily, func(get func(tableID, string) ([]byte, bool)) []change {
		c := parseContact(get(tContact, user.String()))
		if !edit(&c) {
			return nil
		}
		return []change{put(tContact, user.String(), contactValue(c))}
	})
}

// PutPushName says whether the name is new, and the name before it.
func (s *deviceStore) PutPushName(ctx context.Context, user types.JID, pushName string) (changed bool, previous string, err error) {
	err = s.editContact(ctx, "put push name", user, func(c *types.ContactInfo) bool {
		if changed = c.PushName != pushName; changed {
			previous, c.PushName = c.PushName, pushName
		}
		return changed
	})
	return changed, previous, err
}

// PutBusinessName says whether the name is new, and the name before it.
func (s *deviceStore) PutBusinessName(ctx context.Context, user types.JID, businessName string) (changed bool, previous string, err error) {
	err = s.editContact(ctx, "put business name", user, func(c *types.ContactInfo) bool {
		if changed = c.BusinessName != businessName; changed {
			previous, c.BusinessName = c.BusinessName, businessName
		}
		return changed
	})
	return changed, previous, err
}

// PutContactName takes the first name first, as its callers give it; the
// interface names its arguments the other way round.
func (s *deviceStore) PutContactName(ctx context.Context, user types.JID, firstName, fullName string) error {
	return s.editContact(ctx, "put contact name", user, func(c *types.ContactInfo) bool {
		if c.FirstName == firstName && c.FullName == fullName {
			return false
		}
		c.FirstName, c.FullName = firstName, fullName
		return true
	})
}

func (s *deviceStore) PutAllContactNames(ctx context.Context, contacts []store.ContactEntry) error {
	entries := make(map[string]func(*types.ContactInfo), len(contacts))
	for _, e := range contacts {
		entries[e.JID.String()] = func(c *types.ContactInfo) { c.FirstName, c.FullName = e.FirstName, e.FullName }
	}
	return s.editContacts(ctx, "put contact names", entries)
}

func (s *deviceStore) PutManyRedactedPhones(ctx context.Context, phones []store.RedactedPhoneEntry) error {
	entries := make(map[string]func(*types.ContactInfo), len(phones))
	for _, e := range phones {
		entries[e.JID.String()] = func(c *types.ContactInfo) { c.RedactedPhone = e.RedactedPhone }
	}
	return s.editContacts(ctx, "put redacted phones", entries)
}

// editContacts changes many contacts; one that was not there is there then.
func (s *deviceStore) editContacts(ctx context.Context, op string, entries map[string]func(*types.ContactInfo)) error {
	return s.update(ctx, op, lazily, func(get func(tableID, string) ([]byte, bool)) []change {
		var changes []change
		for id, edit := range entries {
			c := parseContact(get(tContact, id))
			old := c
			edit(&c)
			if c.Found = true; c != old {
				changes = append(changes, put(tContact, id, contactValue(c)))
			}
		}
		return changes
	})
}

func (s *deviceStore) GetContact(ctx context.Context, user types.JID) (types.ContactInfo, error) {
	if err := s.ready("get contact"); err != nil {
		return types.ContactInfo{}, err
	}
	return parseContact(s.get(ctx, tContact, user.String())), nil
}

func (s *deviceStore) GetAllContacts(ctx context.Context) (map[types.JID]types.ContactInfo, error) {
	if err := s.ready("get contacts"); err != nil {
		return nil, err
	}
	out := make(map[types.JID]types.ContactInfo)
	s.each(ctx, tContact, func(id string, v []byte) {
		if jid, err := types.ParseJID(id); err == nil {
			out[jid] = parseContact(v, true)
		}
	})
	return out, nil
}

const mutedForever = -1

// chatSettings is how a chat is stored: muted until (Unix seconds, 0 not
// muted, -1 for ever), pinned, archived.
type chatSettings struct {
	muted            int64
	pinned, archived byte
}

func parseChat(b []byte) (c chatSettings) {
	f := fields{b: b}
	c.muted, c.pinned, c.archived = f.varint(), f.byte(), f.byte()
	return c
}

func (s *deviceStore) editChat(ctx context.Context, op string, chat types.JID, edit func(*chatSettings)) error {
	return s.update(ctx, op, lazily, func(get func(tableID, string) ([]byte, bool)) []change {
		old, ok := get(tChat, chat.String())
		var c chatSettings
		if ok {
			c = parseChat(old)
		}
		edit(&c)
		value := fieldsOf(c.muted, c.pinned, c.archived)
		if same(old, ok, value) {
			return nil
		}
		return []change{put(tChat, chat.String(), value)}
	})
}

func (s *deviceStore) PutMutedUntil(ctx context.Context, chat types.JID, mutedUntil time.Time) error {
	return s.editChat(ctx, "put mute", chat, func(c *chatSettings) {
		switch {
		case mutedUntil.Equal(store.MutedForever):
			c.muted = mutedForever
		case mutedUntil.IsZero():
			c.muted = 0
		default:
			c.muted = mutedUntil.Unix()
		}
	})
}

func (s *deviceStore) PutPinned(ctx context.Context, chat types.JID, pinned bool) error {
	return s.editChat(ctx, "put pin", chat, func(c *chatSettings) { c.pinned = asByte(pinned) })
}

func (s *deviceStore) PutArchived(ctx context.Context, chat types.JID, archived bool) error {
	return s.editChat(ctx, "put archive", chat, func(c *chatSettings) { c.archived = asByte(archived) })
}

func (s *deviceStore) GetChatSettings(ctx context.Context, chat types.JID) (types.LocalChatSettings, error) {
	if err := s.ready("get chat settings"); err != nil {
		return types.LocalChatSettings{}, err
	}
	v, ok := s.get(ctx, tChat, chat.String())
	if !ok {
		return types.LocalChatSettings{}, nil
	}
	c := parseChat(v)
	out := types.LocalChatSettings{Found: true, Pinned: c.pinned == 1, Archived: c.archived == 1}
	switch {
	case c.muted < 0:
		out.MutedUntil = store.MutedForever
	case c.muted > 0:
		out.MutedUntil = time.Unix(c.muted, 0)
	}
	return out, nil
}
