package stability

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability/internal/book"
)

// An account gets messages for the phone alone every day, and nobody ever has their
// content.
func TestMessagesWithoutContentHaveABound(t *testing.T) {
	m := &Manager{changed: make(chan struct{})}
	r := &m.received
	r.m = m
	start := time.Now()
	key := func(n int) book.Key { return book.Key{ID: strconv.Itoa(n)} }
	for n := range maxBare + 50 {
		rec := messageRecord{Entry: book.Entry{Key: key(n), State: book.Undecrypted, First: start.Add(time.Duration(n) * time.Second), Hidden: n%2 == 0}}
		if n == 0 {
			rec.Contents = [][]byte{{1}}
		}
		r.note(rec)
		r.book.Load([]book.Entry{rec.Entry})
	}
	for n := range maxBare + 50 {
		e, _ := r.book.Find(key(n))
		r.aside(e, "nobody has sent it again")
	}
	require.Len(t, r.book.Entries(), maxBare+1)
	require.Len(t, r.more, maxBare+1)
	require.EqualValues(t, 49, r.status(time.Now(), true).Removed)
	for n := range maxBare + 50 {
		_, known := r.book.Find(key(n))
		hidden := n%2 == 0
		require.Equal(t, n == 0 || !hidden || n > 2*49, known, "what has a content stays, and of the others those that somebody misses: %d", n)
	}
}
