package stability

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	waBinary "go.mau.fi/whatsmeow/binary"

	"github.com/wastability/wastability/stability/internal/book"
	"github.com/wastability/wastability/stability/internal/course"
)

// The decryption of a message fails behind the end of its term: the next holder reads it.
func TestMessageThatCannotBeReadBehindItsTermIsNotNotedInAnother(t *testing.T) {
	r := bookOf()
	s := &keptRows{rows: make(map[string][]byte)}
	r.m.can.book, r.term.read = s, true
	d := &delivery{key: book.Key{ID: "A"}, node: &waBinary.Node{Tag: "message"}, term: r.term.number}
	rec := messageRecord{Entry: book.Entry{Key: d.key, State: book.Undecrypted}}
	r.leave()
	r.term.read = true // another term
	require.ErrorIs(t, r.keepUndecrypted(t.Context(), d, rec), context.Canceled, "it stays at the service")
	require.Empty(t, s.rows)
	require.Empty(t, r.more)
	d.term = r.term.number
	require.NoError(t, r.keepUndecrypted(t.Context(), d, rec))
	require.Len(t, s.rows, 1)
}

// A deferred write never lands, since the last flush of its device fails, and another device is
// read in the same term.
func TestRowThatIsLostWithItsDeviceIsWrittenAgain(t *testing.T) {
	r, put, gone := bookOf(), book.Key{ID: "A"}, book.Key{ID: "B"}
	s := &keptRows{rows: make(map[string][]byte)}
	r.m.can.book = s
	write := func(k book.Key, f func()) {
		r.mu.Lock()
		f()
		is := r.changed(k)
		r.mu.Unlock()
		require.NoError(t, r.write(t.Context(), is, false))
	}
	add := func(k book.Key) {
		write(k, func() {
			rec := messageRecord{Entry: book.Entry{Key: k, State: book.Kept}, Contents: [][]byte{{1}}}
			r.note(rec)
			r.book.Load([]book.Entry{rec.Entry})
		})
	}
	require.NoError(t, r.load(t.Context(), 1, ownNames{}))
	add(gone)
	was := s.rows[recordID(gone)]
	add(put)
	write(gone, func() { delete(r.more, gone); r.book.Remove(gone) })
	require.Len(t, s.rows, 1)
	s.rows = map[string][]byte{recordID(gone): was}
	require.NoError(t, r.load(t.Context(), 1, ownNames{}))
	require.Len(t, s.rows, 1)
	require.Contains(t, s.rows, recordID(put))
	require.Len(t, r.book.Entries(), 1)
	require.Equal(t, put, r.book.Entries()[0].Key)
	require.Contains(t, r.owing.rows, put, "it is deferred, once more")

	// A debt of that term says nothing in the next.
	r.leave()
	s.rows = map[string][]byte{recordID(gone): was}
	require.NoError(t, r.load(t.Context(), 2, ownNames{}))
	require.Empty(t, r.owing.rows)
	require.Equal(t, gone, r.book.Entries()[0].Key)
}

// A handler has outlived its term. The rows are the next holder's.
func TestRowOfAFormerTermIsNotRemoved(t *testing.T) {
	r, k := bookOf(), book.Key{ID: "A"}
	s := &keptRows{rows: make(map[string][]byte)}
	r.m.can.book, r.term.read = s, true
	for _, read := range []bool{false, true} { // by the next term
		r.term.read = true
		r.note(messageRecord{Entry: book.Entry{Key: k, State: book.Kept}})
		is := r.changed(k)
		s.beside = func() { r.leave(); r.term.read = read }
		require.NoError(t, r.write(t.Context(), is, true))
		require.Len(t, s.rows, 1)
		s.beside = nil
		delete(s.rows, recordID(k))
		require.ErrorIs(t, r.write(t.Context(), is, true), context.Canceled, "the term is over")
		require.Empty(t, s.rows)
	}
}

// A kept message is with a handler when the term ends, and a part of it was not handed
// over by then.
func TestKeptMessageOutlivesATermWithItsContent(t *testing.T) {
	r, k := bookOf(), book.Key{ID: "A"}
	kept := messageRecord{Entry: book.Entry{Key: k, State: book.Kept}, Contents: [][]byte{{1}, {2}}}
	row, err := json.Marshal(kept)
	require.NoError(t, err)
	r.m.can.book = &keptRows{rows: map[string][]byte{recordID(k): row}}
	for name, before := range map[string]bool{"the handler returns in standby": false, "the handler returns in the next term": true} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, r.load(t.Context(), 1, ownNames{}))
			d := &delivery{a: &attachment{m: r.m}, key: k, course: course.Course{Origin: course.Store}}
			require.True(t, r.take(d))
			r.leave()
			if before {
				require.NoError(t, r.load(t.Context(), 2, ownNames{}))
			}
			d.course.Leave()
			r.ended(d)
			if !before {
				require.Empty(t, r.book.Entries(), "standby knows none")
				require.NoError(t, r.load(t.Context(), 2, ownNames{}))
			}
			next := &delivery{a: d.a, key: k, course: course.Course{Origin: course.Store}}
			require.True(t, r.take(next))
			require.Len(t, next.before.Contents, 2)
			next.course.Leave()
			r.ended(next)
			r.leave()
		})
	}
	require.NoError(t, r.load(t.Context(), 3, ownNames{}))
	delete(r.more, k)
	require.False(t, r.take(&delivery{key: k, course: course.Course{Origin: course.Store}}), "what has no content is not handed over, and does not count as handled")
}

// The process has died of a message twice. The next one loses its connection before a
// handler is given it, the one behind that dies of it.
func TestDeathsOfAMessageThatNoHandlerWasGivenStayKnown(t *testing.T) {
	for name, state := range map[string]book.State{"as it was received": "", "that is offered once more": book.AtService, "that was refused before": book.Refused} {
		t.Run(name, func(t *testing.T) {
			r, k := bookOf(), book.Key{ID: "A"}
			r.m.cfg.logger = slog.New(slog.DiscardHandler)
			row, err := json.Marshal(messageRecord{Entry: book.Entry{Key: k, State: state}, Begun: true, Deaths: 2, Build: build()})
			require.NoError(t, err)
			mark, err := json.Marshal(termRecord{Epoch: 1})
			require.NoError(t, err)
			s := &keptRows{rows: map[string][]byte{recordID(k): row, termMark: mark}}
			r.m.can.book = s
			require.NoError(t, r.load(t.Context(), 2, ownNames{}))
			handle := func(left bool) {
				r.arrived(k)
				d := &delivery{a: &attachment{m: r.m}, key: k}
				require.True(t, r.admit(t.Context(), d))
				if left {
					d.course.Leave()
					r.ended(d)
				}
			}
			read := func() (rec messageRecord) {
				require.NoError(t, json.Unmarshal(s.rows[recordID(k)], &rec))
				return rec
			}
			handle(true)
			rec := read()
			require.False(t, rec.Begun)
			require.Equal(t, 2, rec.Deaths)
			require.Equal(t, state, rec.State)

			next := bookOf()
			next.m.cfg.logger, next.m.can.book = r.m.cfg.logger, s
			s.rows[termMark] = mark
			r = next
			require.NoError(t, r.load(t.Context(), 3, ownNames{}))
			handle(false)
			require.Equal(t, book.LeftAlone, r.survivor(read(), false).State)
		})
	}
}
