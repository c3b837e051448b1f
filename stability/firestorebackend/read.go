package firestorebackend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cloud.google.com/go/firestore"
	"google.golang.org/api/iterator"
)

// get reads documents as of one moment. A missing one is a snapshot that does
// not exist; an error is never an absence.
//
// Firestore may give each document of an answer a later time than the one
// before, and the client puts an answer that breaks off together with that to a
// second request. Neither matters where nobody else writes: in a term that
// wrote nothing meanwhile. Elsewhere the documents are read again, in a
// read-only transaction, which the client does not put together.
func (b *backend) get(ctx context.Context, l lane, op string, refs ...*firestore.DocumentRef) (snaps []*firestore.DocumentSnapshot, err error) {
	if len(refs) == 0 {
		return nil, nil
	}
	st := b.stamp()
	read := func(get func(ctx context.Context) error) error {
		return b.again(ctx, func() error {
			return b.call(ctx, l, op, false, func(ctx context.Context, _ func()) error { return get(ctx) })
		})
	}
	err = read(func(ctx context.Context) (err error) {
		snaps, err = b.client.GetAll(ctx, refs)
		return err
	})
	if err == nil && !oneMoment(snaps) && !b.still(st) {
		err = read(func(ctx context.Context) error {
			return b.client.RunTransaction(ctx, func(_ context.Context, tx *firestore.Transaction) (err error) {
				snaps, err = tx.GetAll(refs)
				return err
			}, firestore.ReadOnly)
		})
	}
	if err != nil {
		return nil, err
	}
	b.clock.saw(snaps[len(snaps)-1].ReadTime)
	return snaps, nil
}

// again repeats a read that may succeed.
func (b *backend) again(ctx context.Context, read func() error) error {
	pause := pauses()
	for n := 1; ; n++ {
		err := read()
		if err == nil || hopeless(err) || ctx.Err() != nil || n == tries || !pause(ctx) {
			return err
		}
	}
}

func oneMoment(snaps []*firestore.DocumentSnapshot) bool {
	for _, s := range snaps {
		if !s.ReadTime.Equal(snaps[0].ReadTime) {
			return false
		}
	}
	return true
}

// list reads what a query finds, in one request and as of one moment.
func (b *backend) list(ctx context.Context, l lane, op string, q firestore.Query) (found []*firestore.DocumentSnapshot, err error) {
	err = b.again(ctx, func() error {
		return b.call(ctx, l, op, false, func(ctx context.Context, more func()) error {
			found = nil
			it := q.Documents(ctx)
			defer it.Stop()
			for {
				s, err := it.Next()
				if errors.Is(err, iterator.Done) {
					return nil
				}
				if err != nil {
					return err
				}
				more()
				found = append(found, s)
			}
		})
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// fields reads the fields of a document. The first that has another type is
// the error.
type fields struct {
	name string
	m    map[string]any
	err  error
}

func fieldsOf(s *firestore.DocumentSnapshot) *fields {
	if !s.Exists() {
		return &fields{name: s.Ref.ID}
	}
	return &fields{name: s.Ref.ID, m: s.Data()}
}

func field[T any](f *fields, name string) (v T) {
	raw, ok := f.m[name]
	if !ok || raw == nil {
		return v
	}
	v, ok = raw.(T)
	if !ok && f.err == nil {
		f.err = fmt.Errorf("%w: %s: the field %s is a %T", ErrDamaged, f.name, name, raw)
	}
	return v
}

// want notes what no document of this library says.
func (f *fields) want(ok bool, format string, a ...any) {
	if !ok && f.err == nil {
		f.err = fmt.Errorf("%w: %s: %s", ErrDamaged, f.name, fmt.Sprintf(format, a...))
	}
}

func (f *fields) text(name string) string       { return field[string](f, name) }
func (f *fields) number(name string) int64      { return field[int64](f, name) }
func (f *fields) flag(name string) bool         { return field[bool](f, name) }
func (f *fields) instant(name string) time.Time { return field[time.Time](f, name) }
