package stability

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability/internal/book"
)

// put adds a message as a term finds it in the store.
func (r *received) put(rec messageRecord, id string, contents ...string) book.Key {
	rec.Key = book.Key{ID: id}
	if rec.First.IsZero() {
		rec.First = time.Now()
	}
	for _, text := range contents {
		rec.Contents = append(rec.Contents, []byte(text))
	}
	r.note(rec)
	r.book.Load([]book.Entry{rec.Entry})
	return rec.Key
}

func TestSizeOfStoredContentIsInStatus(t *testing.T) {
	r := bookOf()
	in := func(s book.State) messageRecord { return messageRecord{Entry: book.Entry{State: s}} }
	r.put(in(book.Kept), "two parts", "123", "45")
	r.put(in(book.Refused), "the service has it too", "1234567")
	r.put(in(book.SetAside), "a poisonous one", "123456789")
	hidden := in(book.SetAside)
	hidden.Hidden = true
	r.put(hidden, "nobody misses it", "1")
	r.put(in(book.SetAside), "without content")

	is := r.status(time.Now(), true)
	require.EqualValues(t, 12, is.Waiting.Bytes)
	require.EqualValues(t, 10, is.SetAside.Bytes)
	require.EqualValues(t, 5, is.By[MessageKept].Bytes)
	require.EqualValues(t, 7, is.By[MessageRefused].Bytes)
	require.EqualValues(t, 9, is.Missed[MessageSetAside].Bytes)

	r.book.Arrived(book.Key{ID: "the service has it too"}, time.Now())
	again := r.status(time.Now(), true)
	require.Equal(t, 1, again.By[MessageRefused].Count, "it is queued once more")
	require.EqualValues(t, 7, again.By[MessageRefused].Bytes, "and its content is here still")
}

// A message listed as too old may be with a handler by the time that it would be removed.
func TestOldMessageThatIsHandedOverAgainIsNotRemoved(t *testing.T) {
	r := bookOf()
	r.m.cfg.logger = slog.New(slog.DiscardHandler)
	long := messageRecord{Entry: book.Entry{State: book.SetAside, Since: time.Now().Add(-time.Hour)}}
	again := r.put(long, "handed over again", "x")
	left := r.put(long, "left", "x")
	young := long
	young.Since = time.Now()
	r.put(young, "young", "x")
	old, next := r.book.Old(time.Now(), 30*time.Minute)
	require.Len(t, old, 2)
	require.WithinDuration(t, young.Since.Add(30*time.Minute), next, 0)
	_, ok := r.book.Again(again, true, time.Now())
	require.True(t, ok)
	r.expire(old)
	_, ok = r.book.Find(left)
	require.False(t, ok)
	_, ok = r.book.Find(again)
	require.True(t, ok)
	require.Len(t, r.more, 2)
	require.EqualValues(t, 1, r.status(time.Now(), true).Removed)
}

func TestMessageThatNobodyMissesGoesWithoutALine(t *testing.T) {
	for name, c := range map[string]struct {
		hidden bool
		lines  int
	}{"hidden": {true, 0}, "missed": {false, 1}} {
		t.Run(name, func(t *testing.T) {
			r := bookOf()
			var out strings.Builder
			r.m.cfg.logger = slog.New(slog.NewTextHandler(&out, nil))
			r.put(messageRecord{Entry: book.Entry{State: book.SetAside, Hidden: c.hidden, Since: time.Now().Add(-time.Hour)}}, "A")
			old, _ := r.book.Old(time.Now(), time.Minute)
			r.expire(old)
			require.EqualValues(t, 1, r.status(time.Now(), true).Removed, "it counts in any case")
			require.Equal(t, c.lines, strings.Count(out.String(), "level=WARN"))
		})
	}
}
