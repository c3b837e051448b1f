package authstore

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// Where more contacts are known than the map may hold, all others go and each of
// these stays, our own pair too: whichever contact is looked at first.
func TestFullLIDMapKeepsEachContactThatIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		few := WithRetention(Retention{LIDs: 5})
		kv := newMapKV()
		c, d, _ := open(t, kv, few)
		known := make(map[types.JID]types.JID) // by number
		n := 0
		contact := func() (pn, lid types.JID) {
			n++
			pn, lid = types.NewJID(fmt.Sprint(4000+n), types.DefaultUserServer), types.NewJID(fmt.Sprint(9000+n), types.HiddenUserServer)
			require.NoError(t, d.LIDs.PutLIDMapping(bg, lid, pn))
			return pn, lid
		}
		for _, use := range []func(name types.JID) error{
			func(name types.JID) error {
				return d.Sessions.PutSession(bg, name.SignalAddress().String(), validSession(t, 1))
			},
			func(name types.JID) error {
				return d.Identities.PutIdentity(bg, name.SignalAddress().String(), [32]byte{1})
			},
			func(name types.JID) error { return d.Contacts.PutContactName(bg, name, "C", "Contact") },
			func(name types.JID) error { return d.ChatSettings.PutPinned(bg, name, true) },
			func(name types.JID) error {
				return d.PrivacyTokens.PutPrivacyTokens(bg, store.PrivacyToken{User: name, Token: []byte("t"), Timestamp: time.Now()})
			},
		} {
			for range 2 { // under one name and under the other
				pn, lid := contact()
				known[pn] = lid
				require.NoError(t, use([]types.JID{pn, lid}[n%2]))
			}
		}
		known[d.ID.ToNonAD()] = d.LID.ToNonAD()
		require.NoError(t, d.LIDs.PutLIDMapping(bg, d.LID.ToNonAD(), d.ID.ToNonAD()))
		for range 100 {
			contact()
		}
		tend(t, d)
		for range 2 {
			info, err := c.Info(bg)
			require.NoError(t, err)
			require.Equal(t, len(known), info.Counts["lid"])
			for pn, lid := range known {
				got, err := d.LIDs.GetLIDForPN(bg, pn)
				require.NoError(t, err)
				require.Equal(t, lid, got)
				back, err := d.LIDs.GetPNForLID(bg, lid)
				require.NoError(t, err)
				require.Equal(t, pn, back)
			}
			c, d, _ = reopen(t, kv, c, few)
		}
	})
}

func TestBoundedLIDMapKeepsContactsThatAreKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv, WithRetention(Retention{LIDs: 100}))
		lid := func(i int) types.JID { return types.NewJID(fmt.Sprint(9000+i), types.HiddenUserServer) }
		pn := func(i int) types.JID { return types.NewJID(fmt.Sprint(4000+i), types.DefaultUserServer) }
		var all []store.LIDMapping
		for i := range 300 {
			all = append(all, store.LIDMapping{LID: lid(i), PN: pn(i)})
		}
		require.NoError(t, d.LIDs.PutManyLIDMappings(bg, all))
		require.NoError(t, d.LIDs.PutLIDMapping(bg, d.LID.ToNonAD(), d.ID.ToNonAD()))
		require.NoError(t, d.Sessions.PutSession(bg, "9000_1:3", validSession(t, 1)))
		require.NoError(t, d.Sessions.PutSession(bg, "4001:0", validSession(t, 1)))
		require.NoError(t, d.Identities.PutIdentity(bg, "9002_1:0", [32]byte{1}))
		require.NoError(t, d.Contacts.PutContactName(bg, pn(3), "C", "Contact"))
		require.NoError(t, d.ChatSettings.PutPinned(bg, pn(4), true))
		require.NoError(t, d.PrivacyTokens.PutPrivacyTokens(bg, store.PrivacyToken{User: pn(5), Token: []byte("t"), Timestamp: time.Now()}))
		info, err := c.Info(bg)
		require.NoError(t, err)
		require.Equal(t, 301, info.Counts["lid"])
		tend(t, d)
		goOn(t, kv, d, 1)
		for range 2 {
			info, err = c.Info(bg)
			require.NoError(t, err)
			require.Equal(t, 90, info.Counts["lid"], "and room for more")
			for i := range 6 {
				got, err := d.LIDs.GetPNForLID(bg, lid(i))
				require.NoError(t, err)
				require.Equal(t, pn(i), got)
				got, err = d.LIDs.GetLIDForPN(bg, pn(i))
				require.NoError(t, err)
				require.Equal(t, lid(i), got)
			}
			own, err := d.LIDs.GetLIDForPN(bg, d.ID.ToNonAD())
			require.NoError(t, err)
			require.Equal(t, d.LID.ToNonAD(), own)
			c, d, _ = reopen(t, kv, c, WithRetention(Retention{LIDs: 100}))
			commits := kv.Commits()
			tend(t, d)
			require.Equal(t, commits, kv.Commits())
		}
	})
}

func TestLIDMapHasNoBoundByDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		var all []store.LIDMapping
		for i := range 2000 {
			all = append(all, store.LIDMapping{LID: types.NewJID(fmt.Sprint(90000+i), types.HiddenUserServer), PN: types.NewJID(fmt.Sprint(40000+i), types.DefaultUserServer)})
		}
		require.NoError(t, d.LIDs.PutManyLIDMappings(bg, all))
		time.Sleep(1000 * aDay)
		tend(t, d)
		info, err := c.Info(bg)
		require.NoError(t, err)
		require.Equal(t, 2000, info.Counts["lid"])
	})
}
