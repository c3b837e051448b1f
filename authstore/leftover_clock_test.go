package authstore

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The clock was a year ahead when a leftover was found.
func TestLeftoverThatWasFoundInTheFutureGoesInTime(t *testing.T) {
	for name, kind := range map[string]Leftover{"perhaps handled": LeftoverPerhapsHandled, "useless": LeftoverUseless} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				c, d, _ := open(t, kv)
				hash := [32]byte{1}
				require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, hash, []byte("text"), time.Now()))
				c, d, _ = reopen(t, kv, c)
				at := time.Now().AddDate(1, 0, 0).Unix()
				if kind == LeftoverUseless {
					at = -at
				}
				s := storeOf(d)
				s.mu.Lock()
				s.laterLocked(0, put(tMisc, leftoverID, append(appendBytes(nil, hash[:]), fieldsOf(at)...)))
				s.mu.Unlock()
				settle := func() { require.NoError(t, c.SettleEvents(func([]byte) Leftover { return kind })) }
				settle()
				time.Sleep(time.Minute)
				require.Equal(t, 1, kv.count("event"))
				time.Sleep(eventTTL + time.Hour)
				settle()
				time.Sleep(time.Minute)
				require.Zero(t, kv.count("event"))
			})
		})
	}
}
