package stability

import (
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

	is := r.status(time.Now())
	require.EqualValues(t, 12, is.Waiting.Bytes)
	require.EqualValues(t, 10, is.SetAside.Bytes)
	require.EqualValues(t, 5, is.By[MessageKept].Bytes)
	require.EqualValues(t, 7, is.By[MessageRefused].Bytes)
	require.EqualValues(t, 9, is.Missed[MessageSetAside].Bytes)

	r.book.Arrived(book.Key{ID: "the service has it too"}, time.Now())
	again := r.status(time.Now())
	require.Equal(t, 1, again.By[MessageRefused].Count, "it is queued once more")
	require.EqualValues(t, 7, again.By[MessageRefused].Bytes, "and its content is here still")
}
