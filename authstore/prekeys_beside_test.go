package authstore

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
)

// Keys are made while the commit of others is under way. None of them has the id
// of one of those.
func TestKeysMadeBesideACommitHaveIDsOfTheirOwn(t *testing.T) {
	one := func(d *store.Device) (uint32, error) {
		key, err := d.PreKeys.GenOnePreKey(bg)
		if err != nil {
			return 0, err
		}
		return key.KeyID, nil
	}
	several := func(d *store.Device) (uint32, error) {
		list, err := d.PreKeys.GetOrGenPreKeys(bg, 1)
		if err != nil {
			return 0, err
		}
		return list[0].KeyID, nil
	}
	type gen = func(*store.Device) (uint32, error)
	for name, pair := range map[string][2]gen{"two for receipts": {one, one}, "for an upload": {one, several}, "for a receipt": {several, one}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				c, d, _ := open(t, kv)
				land := late(kv)
				ids := make(chan uint32, len(pair))
				for _, gen := range pair {
					go func() {
						id, err := gen(d)
						if err != nil {
							t.Error(err)
						}
						ids <- id
					}()
					synctest.Wait()
				}
				land()
				require.NotEqual(t, <-ids, <-ids)
				require.NoError(t, c.Close(bg))
			})
		})
	}
}
