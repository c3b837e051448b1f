package authstore

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// Each name and each setting comes by itself and leaves the others alone.
func TestNamesAndSettingsDoNotEraseEachOther(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	jid := testJID(2)
	want := types.ContactInfo{Found: true, FirstName: "Ann", FullName: "Ann Lee", PushName: "annie", BusinessName: "Ann's", RedactedPhone: "+1 5"}
	changed := func(changed bool, previous string, err error) string {
		t.Helper()
		require.NoError(t, err)
		require.True(t, changed)
		return previous
	}
	require.NoError(t, d.Contacts.PutContactName(bg, jid, "Ann", "Ann Lee"))
	require.Empty(t, changed(d.Contacts.PutPushName(bg, jid, "old")))
	require.Empty(t, changed(d.Contacts.PutBusinessName(bg, jid, "Ann's")))
	require.NoError(t, d.Contacts.PutManyRedactedPhones(bg, []store.RedactedPhoneEntry{{JID: jid, RedactedPhone: "+1 5"}}))
	require.Equal(t, "old", changed(d.Contacts.PutPushName(bg, jid, "annie")))
	require.NoError(t, d.Contacts.PutAllContactNames(bg, []store.ContactEntry{{JID: jid, FirstName: "Ann", FullName: "Ann Lee"}}))

	chat := testJID(3)
	until := time.Unix(2_000_000_000, 0)
	require.NoError(t, d.ChatSettings.PutPinned(bg, chat, true))
	require.NoError(t, d.ChatSettings.PutArchived(bg, chat, true))
	require.NoError(t, d.ChatSettings.PutMutedUntil(bg, chat, until))
	require.NoError(t, d.ChatSettings.PutArchived(bg, chat, false))
	settings := func(muted time.Time) {
		t.Helper()
		s, err := d.ChatSettings.GetChatSettings(bg, chat)
		require.NoError(t, err)
		require.Equal(t, types.LocalChatSettings{Found: true, Pinned: true, MutedUntil: muted}, s)
	}
	settings(until)
	require.NoError(t, d.ChatSettings.PutMutedUntil(bg, chat, store.MutedForever))
	settings(store.MutedForever)
	require.NoError(t, d.ChatSettings.PutMutedUntil(bg, chat, time.Time{}))
	settings(time.Time{})

	_, d, _ = reopen(t, kv, c)
	settings(time.Time{})
	got, err := d.Contacts.GetContact(bg, jid)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

// A call that gives two values changes both, also when only one of them is new.
// One that gives nothing new costs no write.
func TestEachNameIsKeptWhenItAloneIsNew(t *testing.T) {
	jid := testJID(2)
	base := types.ContactInfo{Found: true, FirstName: "Ann", FullName: "Ann Lee", PushName: "annie", BusinessName: "Ann's", RedactedPhone: "+1 5"}
	name := func(d *store.Device, first, full string) error {
		return d.Contacts.PutContactName(bg, jid, first, full)
	}
	names := func(d *store.Device, first, full string) error {
		return d.Contacts.PutAllContactNames(bg, []store.ContactEntry{{JID: jid, FirstName: first, FullName: full}})
	}
	push := func(d *store.Device, v string) error {
		_, previous, err := d.Contacts.PutPushName(bg, jid, v)
		if err == nil && v != base.PushName && previous != base.PushName {
			return fmt.Errorf("the push name before was %q", previous)
		}
		return err
	}
	business := func(d *store.Device, v string) error {
		_, previous, err := d.Contacts.PutBusinessName(bg, jid, v)
		if err == nil && v != base.BusinessName && previous != base.BusinessName {
			return fmt.Errorf("the business name before was %q", previous)
		}
		return err
	}
	phone := func(d *store.Device, v string) error {
		return d.Contacts.PutManyRedactedPhones(bg, []store.RedactedPhoneEntry{{JID: jid, RedactedPhone: v}})
	}
	for title, c := range map[string]struct {
		put    func(d *store.Device) error
		change func(*types.ContactInfo)
	}{
		"first name":              {func(d *store.Device) error { return name(d, "Anna", "Ann Lee") }, func(c *types.ContactInfo) { c.FirstName = "Anna" }},
		"full name":               {func(d *store.Device) error { return name(d, "Ann", "Ann Doe") }, func(c *types.ContactInfo) { c.FullName = "Ann Doe" }},
		"both names":              {func(d *store.Device) error { return name(d, "Bob", "Bob Doe") }, func(c *types.ContactInfo) { c.FirstName, c.FullName = "Bob", "Bob Doe" }},
		"neither name":            {func(d *store.Device) error { return name(d, "Ann", "Ann Lee") }, nil},
		"no name":                 {func(d *store.Device) error { return name(d, "", "") }, func(c *types.ContactInfo) { c.FirstName, c.FullName = "", "" }},
		"first name of many":      {func(d *store.Device) error { return names(d, "Anna", "Ann Lee") }, func(c *types.ContactInfo) { c.FirstName = "Anna" }},
		"full name of many":       {func(d *store.Device) error { return names(d, "Ann", "Ann Doe") }, func(c *types.ContactInfo) { c.FullName = "Ann Doe" }},
		"neither name of many":    {func(d *store.Device) error { return names(d, "Ann", "Ann Lee") }, nil},
		"push name":               {func(d *store.Device) error { return push(d, "a") }, func(c *types.ContactInfo) { c.PushName = "a" }},
		"push name that goes":     {func(d *store.Device) error { return push(d, "") }, func(c *types.ContactInfo) { c.PushName = "" }},
		"same push name":          {func(d *store.Device) error { return push(d, "annie") }, nil},
		"business name":           {func(d *store.Device) error { return business(d, "A") }, func(c *types.ContactInfo) { c.BusinessName = "A" }},
		"business name that goes": {func(d *store.Device) error { return business(d, "") }, func(c *types.ContactInfo) { c.BusinessName = "" }},
		"same business name":      {func(d *store.Device) error { return business(d, "Ann's") }, nil},
		"phone":                   {func(d *store.Device) error { return phone(d, "+1 6") }, func(c *types.ContactInfo) { c.RedactedPhone = "+1 6" }},
		"same phone":              {func(d *store.Device) error { return phone(d, "+1 5") }, nil},
	} {
		t.Run(title, func(t *testing.T) {
			kv := newMapKV()
			box, d, _ := open(t, kv)
			require.NoError(t, name(d, base.FirstName, base.FullName))
			_, _, err := d.Contacts.PutPushName(bg, jid, base.PushName)
			require.NoError(t, err)
			_, _, err = d.Contacts.PutBusinessName(bg, jid, base.BusinessName)
			require.NoError(t, err)
			require.NoError(t, phone(d, base.RedactedPhone))
			box, d, _ = reopen(t, kv, box)
			want := base
			if c.change != nil {
				c.change(&want)
			}
			require.NoError(t, c.put(d))
			s := storeOf(d)
			s.mu.Lock()
			dirty := len(s.queue.dirty)
			s.mu.Unlock()
			if c.change == nil {
				require.Zero(t, dirty)
			} else {
				require.Equal(t, 1, dirty)
			}
			for range 2 {
				got, err := d.Contacts.GetContact(bg, jid)
				require.NoError(t, err)
				require.Equal(t, want, got)
				all, err := d.Contacts.GetAllContacts(bg)
				require.NoError(t, err)
				require.Equal(t, map[types.JID]types.ContactInfo{jid: want}, all)
				box, d, _ = reopen(t, kv, box)
			}
		})
	}
}
