package authstore

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"go.mau.fi/whatsmeow/store"
)

// ErrPartDone is returned by Delivery.Begin for a part of a message that is to
// be handed to nobody. The part is marked as finished, and whatsmeow
// acknowledges the message as one that it has handled before.
var ErrPartDone = errors.New("authstore: this part of the message is done with")

// Delivery follows one received message through the event buffer of a device.
// Its methods are called in the goroutine that handles the message, and may use
// the store with the context that they are given. They must not block for longer
// than the store does.
type Delivery interface {
	// OtherHashes are the names that other versions of whatsmeow may have given,
	// in the buffer, to the part that whatsmeow names hash. It is called when the
	// buffer has nothing under hash. By these names the store finds a part that
	// was decrypted, but not handled, before an upgrade or a downgrade. Decrypted
	// again, it would be taken for a message that was handled long ago.
	OtherHashes(ctx context.Context, hash [32]byte) [][32]byte
	// Begin is called before a part of the message is decrypted, when whatsmeow
	// asks for it under the name hash. The argument known is the buffer's entry
	// of the part, nil for a new one. An error is returned to whatsmeow: one that
	// matches context.Canceled leaves the message unacknowledged. See
	// ErrPartDone.
	Begin(ctx context.Context, hash [32]byte, known *store.BufferedEvent) error
	// Failed is called when a part could not be decrypted, before whatsmeow
	// acknowledges the message. An error takes the place of err.
	Failed(ctx context.Context, err error) error
	// Finish is called when the handlers have returned, before the part is
	// marked as finished. With an error it is not. plaintext is the part as it
	// was decrypted, with its padding; nil for one that was finished before.
	Finish(ctx context.Context, plaintext []byte) error
}

// SecretDelivery is a Delivery that knows the secret of a part: the key to the
// votes, edits and reactions that come later. Secret is called with the part as it
// was decrypted, with its padding, and gives what whatsmeow is about to store of
// it; false where there is none. The secret is then durable with the part. Without
// it whatsmeow's own write comes up to a second later, and a process that is killed
// between the acknowledgement and that has lost it.
type SecretDelivery interface {
	Delivery
	Secret(plaintext []byte) (store.MessageSecretInsert, bool)
}

type deliveryKey struct{}

// WithDelivery lets d follow the message that is handled under the context. The
// devices of a Container look for it.
func WithDelivery(ctx context.Context, d Delivery) context.Context {
	return context.WithValue(ctx, deliveryKey{}, d)
}

func deliveryOf(ctx context.Context) Delivery {
	d, _ := ctx.Value(deliveryKey{}).(Delivery)
	return d
}

// MessageBook is a Store that keeps entries about received messages that no
// handler has taken yet. stability.Manager must not forget them. An entry is
// the caller's own format; it is sealed like every row, and stays when the
// device is deleted or another is paired. If the store is not a MessageBook,
// the Manager keeps its book in memory. *Container implements it.
type MessageBook interface {
	// MessageEntries gives all entries by id. From memory once a device was
	// loaded; it needs one.
	MessageEntries(ctx context.Context) (map[string][]byte, error)
	// PutMessageEntry writes an entry; nil removes it. With durable it is
	// written when the call returns, else within a second, with the next commit.
	PutMessageEntry(ctx context.Context, id string, entry []byte, durable bool) error
}

var _ MessageBook = (*Container)(nil)

func (c *Container) device(op string) (*deviceStore, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == nil {
		return nil, &overError{op, fmt.Errorf("no device is loaded: %w", ErrSuperseded)}
	}
	return c.current, nil
}

// MessageEntries implements MessageBook.
func (c *Container) MessageEntries(ctx context.Context) (map[string][]byte, error) {
	const op = "read the book of messages"
	s, err := c.device(op)
	if err == nil {
		err = s.gate.check(op)
	}
	if err != nil {
		return nil, err
	}
	out := make(map[string][]byte)
	s.each(ctx, tMessage, func(id string, v []byte) { out[id] = copyOf(v) })
	return out, nil
}

// PutMessageEntry implements MessageBook. ErrTooLarge is met by nothing that a
// message can hold.
func (c *Container) PutMessageEntry(ctx context.Context, id string, entry []byte, durable bool) error {
	const op = "write the book of messages"
	s, err := c.device(op)
	if err != nil {
		return err
	}
	entered := put(tMessage, id, entry)
	if entry == nil {
		if _, ok := s.get(ctx, tMessage, id); !ok && !s.isEntering(id) && !(durable && s.isDeferred(del(tMessage, id))) {
			return nil
		}
		entered = del(tMessage, id)
	} else if durable {
		defer s.entering(id)()
	}
	s.mu.Lock()
	unpaired := s.gen == "" // the book is the account's
	s.mu.Unlock()
	if unpaired && s.txnOf(ctx) == nil {
		return s.writeUnpaired(op, entered, durable)
	}
	if durable {
		return s.write(ctx, op, entered)
	}
	return s.later(ctx, op, soon, entered)
}

// entering notes an entry that is on its way to the store until done is called. Memory has
// it only behind that, and a removal beside it goes behind it.
func (s *deviceStore) entering(id string) (done func()) {
	add := func(n int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.queue.enter(id, n)
	}
	add(1)
	return func() { add(-1) }
}

// isDeferred reports whether the row of c is on no disk yet as memory has it.
func (s *deviceStore) isDeferred(c change) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queue.isDirty(s.im.rowOf(c))
}

func (s *deviceStore) isEntering(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queue.entering(id)
}

// writeUnpaired writes a change of the account's while there is no device.
func (s *deviceStore) writeUnpaired(op string, c change, durable bool) error {
	if durable {
		return s.submit(op, []change{c}, Batch{})
	}
	if err := s.gate.check(op); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queue.closed { // nobody would flush it
		return &overError{op: op, cause: ErrSuperseded}
	}
	s.laterLocked(soon, c)
	return nil
}

// follow tells the delivery of ctx that a part of its message is asked for.
func (s *deviceStore) follow(ctx context.Context, hash [32]byte, known *store.BufferedEvent) (*store.BufferedEvent, error) {
	d := deliveryOf(ctx)
	if d == nil {
		return known, nil
	}
	err := d.Begin(ctx, hash, known)
	if !errors.Is(err, ErrPartDone) {
		if err != nil {
			return nil, err
		}
		return known, nil
	}
	if known == nil { // decrypted nowhere: it is as good as finished
		return &store.BufferedEvent{}, nil
	}
	done := *known
	if done.Plaintext != nil {
		if err := s.finishEvent(ctx, hash); err != nil {
			return nil, err
		}
		done.Plaintext = nil
	}
	return &done, nil
}

// ErrPanicked reports that decryption panicked, on a message that is malformed.
// The message counts as one that cannot be decrypted.
var ErrPanicked = errors.New("authstore: decryption panicked")

// caught runs fn, and makes an error of a panic: with some versions of whatsmeow
// it would end the process, again at each start, before the messages behind it.
func caught(ctx context.Context, fn func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v\n%s", ErrPanicked, p, debug.Stack())
		}
	}()
	return fn(ctx)
}
