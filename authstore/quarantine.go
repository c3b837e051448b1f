package authstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"go.mau.fi/whatsmeow/types"
)

// beginLook is called before the rows are read. The look ends with end.
func (s *deviceStore) beginLook() (l *tableLook, end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l = s.damage.beginLook()
	return l, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.damage.endLook(l)
	}
}

// commitBatch commits ws, and tells the looks that are under way of it.
func (s *deviceStore) commitBatch(op string, ws []write) error {
	s.mu.Lock()
	s.damage.committing(ws)
	s.mu.Unlock()
	err := s.gate.commit(op, toBatch(ws))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.damage.committed(err == nil)
	return err
}

// quarantine sets damaged rows aside that a look has found: the next commit copies
// them to a kind of their own and removes them from where they stand, or writes over
// them. Without a look nothing can have been written meanwhile.
func (s *deviceStore) quarantine(by *tableLook, bad []loadedRow) {
	for _, r := range bad {
		s.mu.Lock()
		known := s.damage.at(r.key) || s.damage.overtaken(by, r.key)
		s.mu.Unlock()
		if known {
			continue // told, and on its way out
		}
		s.cfg.incident(Incident{Kind: IncidentCorrupt, Row: r.key.Kind, Err: r.err})
		kept, err := s.aside(r.key, r.raw, r.err)
		if err != nil {
			continue // it stays where it is until it is written over
		}
		s.mu.Lock()
		if !s.damage.overtaken(by, r.key) { // sealing may have taken a while
			s.damage.setAside(r.key, kept)
			s.armLocked(soon)
		}
		s.mu.Unlock()
	}
}

// asideOverhead is more than what a row that was set aside has beside its
// bytes: key, cause, sum, seal.
const asideOverhead = 3 << 10

const maxCause = 300

// aside is the rows under which a damaged one is kept: several, when one would
// be beyond the KV's limits.
func (s *deviceStore) aside(k Key, raw []byte, cause error) ([]Entry, error) {
	lim := s.gate.kv.Limits()
	step := len(raw)
	if lim.MaxValue > 0 {
		step = min(step, max(lim.MaxValue-asideOverhead, lim.MaxValue/4, 1))
	}
	if lim.MaxBatch > 0 {
		step = min(step, max(lim.MaxBatch-2*asideOverhead, lim.MaxBatch/4, 1))
	}
	pieces := slices.Collect(slices.Chunk(raw, max(step, 1)))
	if len(pieces) == 0 {
		pieces = [][]byte{nil}
	}
	why := cause.Error()
	why = why[:min(len(why), maxCause)]
	epoch := s.gate.fence.Epoch()
	var out []Entry
	for i, piece := range pieces {
		body := fieldsOf(time.Now().UnixMilli(), epoch, int64(i), int64(len(raw)))
		body = appendBytes(appendBytes(appendBytes(body, []byte(k.Kind)), []byte(k.ID)), []byte(why))
		full := string(k.Kind) + "/" + k.ID + "/" + strconv.FormatInt(epoch, 36) + "/" + strconv.Itoa(i)
		id, hashed := keyID(full)
		if n := s.names.Load(); n != nil {
			id, hashed = n.aside(full), true
		}
		qk := Key{kindQuarantine, id}
		value, err := s.cfg.codec.encode(qk, full, hashed, append(body, piece...))
		if err != nil {
			return nil, err
		}
		if !lim.fits(qk, value) {
			return nil, ErrTooLarge // a KV whose limits are hardly more than a key
		}
		out = append(out, Entry{qk, value})
	}
	return out, nil
}

// setAside is for a value whose envelope was fine and whose content is not.
// The row counts as missing from now on.
func (s *deviceStore) setAside(t tableID, id string, value []byte, cause error) error {
	s.cfg.incident(Incident{Kind: IncidentCorrupt, Row: specOf(t).kind, Err: cause})
	s.mu.Lock()
	k, _, _ := s.keyOf(s.im.rowOf(change{table: t, id: id}))
	s.mu.Unlock()
	var b Batch
	if kept, err := s.aside(k, value, cause); err == nil {
		b.Put = kept
	}
	const op = "set aside a damaged row"
	err := s.submit(op, []change{del(t, id)}, b)
	if err != nil && len(b.Put) > 0 && s.gate.check(op) == nil { // it cannot be kept
		s.refused(specOf(t).kind, err)
		err = s.submit(op, []change{del(t, id)}, Batch{})
	}
	return err
}

// Quarantine is what is kept and not in use.
type Quarantine struct {
	Rows   []QuarantinedRow // damaged rows that were set aside, oldest first
	Device *DeletedDevice   // nil: none that could be restored
}

// QuarantinedRow is a row that did not parse and counts as missing.
type QuarantinedRow struct {
	Kind  Kind
	ID    string // may contain a phone number; a hash where names are sealed
	Cause string
	At    time.Time
	Size  int // bytes
}

// DeletedDevice is a device that Restore would bring back.
type DeletedDevice struct {
	JID    types.JID
	At     time.Time
	Reason string
}

// Quarantined lists what was set aside. It reads, needs no lock, and leaves
// out what it cannot open.
func (c *Container) Quarantined(ctx context.Context) (Quarantine, error) {
	h, err := c.readHead(ctx)
	if err != nil {
		return Quarantine{}, err
	}
	var q Quarantine
	if info := h.info(); info.Deleted {
		q.Device = &DeletedDevice{info.JID, info.DeletedAt, info.Reason}
	}
	entries, err := c.asides(ctx)
	if err != nil {
		return Quarantine{}, err
	}
	for _, e := range entries {
		rec, err := c.cfg.codec.decode(e.Key, e.Key.ID, e.Value)
		if err != nil {
			continue
		}
		f := fields{b: rec.data}
		at, _, piece, size := f.varint(), f.varint(), f.varint(), f.varint()
		r := QuarantinedRow{Kind: Kind(f.bytes()), ID: string(f.bytes()), Cause: string(f.bytes()), At: time.UnixMilli(at), Size: int(size)}
		if f.err == nil && piece == 0 {
			q.Rows = append(q.Rows, r)
		}
	}
	slices.SortFunc(q.Rows, func(a, b QuarantinedRow) int { return a.At.Compare(b.At) })
	return q, nil
}

func (c *Container) asides(ctx context.Context) ([]Entry, error) {
	var answer result[[]Entry]
	err := c.look(ctx, "list what was set aside", func(ctx context.Context) error {
		return answer.of(scanAll(c.kv.Scan(ctx, kindQuarantine, "")))
	})
	return answer.get(), err
}

// PurgeRows removes for good the damaged rows that were set aside. It may run
// beside the device of f's term.
func (c *Container) PurgeRows(ctx context.Context, f Fence) error {
	const op = "purge damaged rows"
	if err := c.drop(ctx, f, op, nil); err != nil { // an earlier write may have set rows aside
		return err
	}
	if err := c.answers(ctx); err != nil {
		return err
	}
	entries, err := c.asides(ctx)
	if err != nil {
		return err
	}
	for some := range slices.Chunk(entries, removeRows) {
		var keys []Key
		for _, e := range some {
			keys = append(keys, e.Key)
		}
		if err := c.drop(ctx, f, op, keys); err != nil {
			return err
		}
	}
	return nil
}

// commitBeside is commitAll while no commit of the device is on its way.
func (c *Container) commitBeside(ctx context.Context, f Fence, op string, ws []write) error {
	_, release, err := c.holdCommits(ctx)
	if err != nil {
		return err
	}
	defer release()
	return c.commitAll(ctx, f, op, ws)
}

// PurgeDevice removes for good the deleted device that Restore would bring
// back. After an error it may be repeated, and Restore is no longer possible.
// ErrNothingDeleted when there is none. Another device may be paired meanwhile.
func (c *Container) PurgeDevice(ctx context.Context, f Fence) error {
	const op = "purge the deleted device"
	var gens []string
	err := c.editHead(ctx, f, func(h *head) error {
		if h.State == stateDeleted {
			h.Purge = append(slices.Clone(h.Purge), h.Gen)
			h.State, h.JID, h.DeletedAt, h.Reason = statePurged, "", time.Time{}, ""
		} else if h.State != statePurged || len(h.Purge) == 0 {
			return ErrNothingDeleted
		}
		gens = h.Purge
		return nil
	})
	if err != nil {
		return err
	}
	look := func(op string, f func(context.Context) error) error { return c.look(ctx, op, f) }
	for _, gen := range gens {
		err := dropGeneration(c.kv, gen, op, false, look, func(keys []Key) error { return c.drop(ctx, f, op, keys) })
		if err != nil {
			return err
		}
	}
	err = c.editHead(ctx, f, func(h *head) error {
		if h.State != statePurged { // a device that was paired meanwhile has them in its list, and looks itself
			return ErrNothingDeleted
		}
		h.Purge = slices.DeleteFunc(slices.Clone(h.Purge), func(gen string) bool { return slices.Contains(gens, gen) })
		return nil
	})
	if errors.Is(err, ErrNothingDeleted) {
		err = nil
	}
	return err
}

// editHead changes the record of the account's device, unless edit returns an error.
// A device that is about to be paired waits meanwhile.
func (c *Container) editHead(ctx context.Context, f Fence, edit func(*head) error) error {
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer func() { <-c.sem }()
	if err := c.settle(ctx, f); err != nil {
		return err
	}
	s, release, err := c.holdSave(ctx)
	if err != nil {
		return err
	}
	defer release()
	h, err := c.readHead(ctx)
	if err == nil {
		err = edit(&h)
	}
	if err != nil {
		return err
	}
	return c.putHead(ctx, f, s, h)
}

func (c *Container) putHead(ctx context.Context, f Fence, s *deviceStore, h head) error {
	encoded, err := h.encode()
	if err != nil {
		return err
	}
	key := headKey()
	value, err := c.cfg.codec.wrap(key, h.flags(), encoded)
	if err != nil {
		return err
	}
	if err := c.commitBeside(ctx, f, "name the account's device", []write{{entry: Entry{key, value}}}); err != nil {
		return fmt.Errorf("authstore: the record that names the account's device: %w", err)
	}
	if s != nil {
		s.mu.Lock()
		s.head = h
		s.mu.Unlock()
	}
	return nil
}
