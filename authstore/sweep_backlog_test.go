package authstore

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// An account has more old rows than it has commits. While some wait to be removed,
// there is no other look: it would find the same ones and put them on the list again,
// twice a day, and each would be counted as removed as often.
func TestOldRowsThatWaitAreNotFoundAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv, WithRetention(Retention{MessageSecrets: aDay}))
		tend(t, d)
		const old, young = 8 * removeAtOnce, 3
		putSecrets(t, d, "old", old)
		time.Sleep(2 * aDay)
		for range 3 {
			tend(t, d)
			require.LessOrEqual(t, locked(storeOf(d), func() int { return storeOf(d).upkeep.waiting() }), old)
			time.Sleep(aDay / 2)
		}
		putSecrets(t, d, "young", young)
		for i := range uint32(8) {
			require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, i)))
		}
		require.Equal(t, young, kv.count("secret"))
		info, err := c.Info(bg)
		require.NoError(t, err)
		require.Equal(t, young, info.Counts["secret"])
	})
}

// A row that is old and turns out to be damaged is named once in the commit that
// removes it: named twice, the session that is written would not go in one batch with
// what rides on it.
func TestOldRowThatIsDamagedIsRemovedOnce(t *testing.T) {
	kv := newMapKV()
	_, d, _ := open(t, kv)
	s := storeOf(d)
	putSecrets(t, d, "a", 1)
	var key Key
	for id := range s.im.flat[tSecret] {
		key = rowKey(d, tSecret, id)
	}
	s.quarantine(nil, []loadedRow{{key: key, raw: []byte("damaged"), err: ErrCorrupt}})
	s.mu.Lock()
	s.upkeep.remove(key)
	s.mu.Unlock()
	commits := kv.Commits()
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
	require.EqualValues(t, 1, kv.Commits()-commits)
	require.Zero(t, kv.count("secret"))
	require.Equal(t, 1, kv.count(kindQuarantine))
	require.Zero(t, s.upkeep.waiting())
}
