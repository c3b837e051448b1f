package authstore

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// The device of an address stays when the number becomes a LID and back.
func TestMappingKeepsTheDevice(t *testing.T) {
	_, d, _ := open(t, newMapKV())
	pn, lid := types.NewJID("15550002", types.DefaultUserServer), types.NewJID("902", types.HiddenUserServer)
	require.NoError(t, d.LIDs.PutLIDMapping(bg, lid, pn))
	for device := range uint16(3) {
		pn.Device, lid.Device = device, device
		got, err := d.LIDs.GetLIDForPN(bg, pn)
		require.NoError(t, err)
		require.Equal(t, lid, got)
		got, err = d.LIDs.GetPNForLID(bg, lid)
		require.NoError(t, err)
		require.Equal(t, pn, got)
		many, err := d.LIDs.GetManyLIDsForPNs(bg, []types.JID{pn, testJID(77)})
		require.NoError(t, err)
		require.Equal(t, map[types.JID]types.JID{pn: lid}, many)
	}
}

// Mappings that come together count one after the other: each sees what those
// before it have set and removed.
func TestMappingsOfOneCallFollowEachOther(t *testing.T) {
	pn := func(n int) types.JID { return types.NewJID(fmt.Sprint(n), types.DefaultUserServer) }
	lid := func(n int) types.JID { return types.NewJID(fmt.Sprint(900+n), types.HiddenUserServer) }
	for name, c := range map[string]struct {
		calls [][2]int // LID, number
		want  map[int]int
	}{
		"two swap":             {[][2]int{{2, 1}, {1, 2}}, map[int]int{1: 2, 2: 1}},
		"three turn":           {[][2]int{{2, 1}, {3, 2}, {1, 3}}, map[int]int{1: 2, 2: 3, 3: 1}},
		"one goes and returns": {[][2]int{{2, 1}, {1, 1}, {2, 2}}, map[int]int{1: 1, 2: 2}},
		"one takes from both":  {[][2]int{{2, 1}, {2, 3}}, map[int]int{3: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			kv := newMapKV()
			cont, d, _ := open(t, kv)
			for n := 1; n <= 3; n++ {
				require.NoError(t, d.LIDs.PutLIDMapping(bg, lid(n), pn(n)))
			}
			var together []store.LIDMapping
			for _, m := range c.calls {
				together = append(together, store.LIDMapping{LID: lid(m[0]), PN: pn(m[1])})
			}
			require.NoError(t, d.LIDs.PutManyLIDMappings(bg, together))
			want := map[int]int{3: 3}
			if name == "one takes from both" || name == "three turn" {
				want = map[int]int{}
			}
			for n, l := range c.want {
				want[n] = l
			}
			for range 2 {
				back := make(map[int]types.JID)
				for n := 1; n <= 3; n++ {
					got, err := d.LIDs.GetLIDForPN(bg, pn(n))
					require.NoError(t, err)
					if l, ok := want[n]; ok {
						require.Equal(t, lid(l), got, "number %d", n)
						back[l] = pn(n)
					} else {
						require.True(t, got.IsEmpty(), "number %d", n)
					}
				}
				for l := 1; l <= 3; l++ {
					got, err := d.LIDs.GetPNForLID(bg, lid(l))
					require.NoError(t, err)
					require.Equal(t, back[l], got, "LID %d", l)
				}
				cont, d, _ = reopen(t, kv, cont)
			}
		})
	}
}
