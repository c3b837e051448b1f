package stability

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCareIsTakenBehindABadEndUntilTheBacklogIsHandled(t *testing.T) {
	mark := func(epoch int64) []byte {
		raw, err := json.Marshal(termRecord{Epoch: epoch})
		require.NoError(t, err)
		return raw
	}
	now := time.Now()
	for name, c := range map[string]struct {
		last  int64 // of this process; 0 for none
		found []byte
		want  bool
	}{
		"no mark":                       {0, nil, false},
		"the mark of another process":   {0, mark(1), true},
		"this process lost the lock":    {1, mark(1), false},
		"another one held it meanwhile": {1, mark(2), true},
		"its own mark":                  {0, mark(3), false},
		"a mark of another version":     {0, []byte("?"), true},
	} {
		t.Run(name, func(t *testing.T) {
			x := care{epoch: c.last, past: careInNeed, mark: markStands}
			require.True(t, x.begin(3, c.found, now))
			require.Equal(t, c.want, x.needed())
			require.Equal(t, now, x.begun)
			require.False(t, x.marked(), "its own is not written yet")
			require.False(t, x.begin(3, mark(1), now), "another device")
			require.Equal(t, c.want, x.needed())

			require.Equal(t, c.want, x.accuses(0, false))
			require.True(t, x.accuses(1, false), "a process has died of it before")
			x.calm()
			require.False(t, x.needed())
			require.False(t, x.accuses(0, false))
			require.Equal(t, c.want, x.accuses(0, true), "what is kept here is no part of the backlog")
		})
	}
}

func TestMarkOfATermOnlyGetsFirmer(t *testing.T) {
	x := care{epoch: 2}
	x.put(1, true)
	require.False(t, x.marked(), "of another term")
	x.put(2, false)
	require.Equal(t, markRides, x.mark)
	x.put(2, true)
	require.Equal(t, markStands, x.mark)
	x.put(2, false)
	require.Equal(t, markStands, x.mark)
}
