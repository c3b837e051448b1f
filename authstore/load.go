package authstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"

	waLog "go.mau.fi/whatsmeow/util/log"
)

func headKey() Key { return Key{specOf(tHead).kind, globalGen + "/" + headID} }

// readHead reads which device is the account's. No record: the zero head.
func (c *Container) readHead(ctx context.Context) (head, error) {
	key := headKey()
	var answer result[map[Key][]byte]
	err := c.cfg.call(ctx, "read the account", func(ctx context.Context) error {
		return answer.of(c.kv.Get(ctx, key))
	})
	if err != nil {
		return head{}, err
	}
	raw, ok := answer.get()[key]
	if !ok {
		return head{}, nil
	}
	rec, err := c.cfg.codec.decode(key, headID, raw)
	if err != nil {
		return head{}, fmt.Errorf("authstore: the record that names the account's device: %w", err)
	}
	return decodeHead(rec.data)
}

// load reads a device in two round trips: the head, then every table at once.
func (c *Container) load(ctx context.Context, f Fence) (s *deviceStore, err error) {
	h, err := c.readHead(ctx)
	if err != nil {
		return nil, err
	}
	s = newDeviceStore(c, f)
	defer func() {
		if err != nil { // nobody gets it, so it writes nothing: it may have begun to set rows aside
			s.retire(err)
			s = nil
		}
	}()
	s.head = h
	if h.Gen == "" {
		if err := c.refuseOrphans(ctx); err != nil {
			return s, err
		}
	}
	s.useNames(h.Names)
	if err := s.sealNames(); err != nil {
		return s, err
	}
	s.device = newDevice(slogAdapter{c.cfg.log})
	s.device.Container = s
	if h.State == statePaired {
		s.gen = h.Gen
	}
	if err := s.loadTables(ctx); err != nil || s.gen == "" {
		return s, err
	}
	v, ok := s.im.get(tDevice, deviceID)
	if !ok {
		return s, badDevice("record is missing")
	}
	saved, err := decodeDevice(v)
	if err == nil {
		err = saved.fill(s.device)
	}
	if err == nil {
		s.install(s.device)
	}
	return s, err
}

// refuseOrphans looks for rows of a device where no record says whose they are.
// An account that is new has none; a record that is gone, by a hand in a console
// or half a restore, is no reason to show a new code. The rows of an unfinished
// import have a record of their own.
func (c *Container) refuseOrphans(ctx context.Context) error {
	m, err := c.readManifest(ctx)
	if err != nil {
		return err
	}
	known := func(k Key) bool {
		return strings.HasPrefix(k.ID, globalGen+"/") || m.Gen != "" && strings.HasPrefix(k.ID, m.Gen+"/")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var looks [][]Range
	for _, kind := range deviceKinds() {
		looks = append(looks, []Range{{Kind: kind}})
	}
	if _, ok := c.kv.(RangeScanner); ok {
		looks = [][]Range{slices.Concat(looks...)}
	}
	found := make(chan error, len(looks))
	for _, ranges := range looks {
		go func() {
			var answer result[Key]
			err := c.cfg.load(ctx, "look for a device", func(ctx context.Context) error {
				for e, err := range scanRanges(ctx, c.kv, ranges) {
					if err != nil {
						return err
					}
					if !known(e.Key) {
						return answer.of(e.Key, nil)
					}
				}
				return nil
			})
			if k := answer.get(); err == nil && k != (Key{}) {
				err = fmt.Errorf("%w: the record that names the account's device is missing, but there are rows of a device (%s): "+
					"restore that record from a backup, or clear all of the account to pair again", ErrCorrupt, k.Kind)
			}
			found <- err
		}()
	}
	var worst error
	for range looks {
		if err := <-found; err != nil && (worst == nil || errors.Is(err, ErrCorrupt)) {
			worst = err
			cancel()
		}
	}
	return worst
}

// loadedRow is a stored row, opened. A damaged one has raw and err instead.
type loadedRow struct {
	row  row
	key  Key
	data []byte
	raw  []byte
	err  error
}

func (s *deviceStore) loadTables(ctx context.Context) error {
	rows, parts, err := s.readTables(ctx)
	if err != nil {
		return err
	}
	var bad []loadedRow
	s.im.expect(rows)
	for _, r := range rows {
		if r.err == nil {
			r.err = s.im.load(r.row, r.data)
		}
		if r.err == nil {
			continue
		}
		if r.row.table == tDevice || !errors.Is(r.err, ErrCorrupt) {
			return fmt.Errorf("authstore: load the device: %w", r.err)
		}
		bad = append(bad, r)
	}
	for name, bucket := range s.im.packed[tSeen] {
		if len(bucket) < seenChunk {
			s.events.goOn(name)
		}
	}
	s.loadSizes()
	s.events.begin(s.im)
	s.quarantine(nil, bad)
	s.dropOrphans(parts)
	return nil
}

type caller func(op string, f func(context.Context) error) error

// reader makes the calls that a scan needs.
type reader struct {
	scan caller // for rows
	get  caller // for the parts of those that stand in some
}

// some is for few rows: it waits through an outage, and ends the term when that
// lasts.
func (s *deviceStore) some() reader {
	call := func(op string, f func(context.Context) error) error { return s.gate.run(op, false, f) }
	return reader{call, call}
}

// whole is for all rows of a table.
func (s *deviceStore) whole(ctx context.Context) reader {
	r := s.some()
	r.scan = func(op string, f func(context.Context) error) error { return s.gate.lookAgain(ctx, op, f) }
	return r
}

// scan reads rows of a table for a reader who is under way: it waits through
// an outage, and sets damaged rows aside.
func (s *deviceStore) scan(by reader, op string, t tableID, idPrefix string) ([]loadedRow, error) {
	look, end := s.beginLook()
	defer end()
	rows, err := s.scanTable(by, op, t, idPrefix)
	if err != nil {
		return nil, err
	}
	var good, bad []loadedRow
	for _, r := range rows {
		switch {
		case r.err == nil:
			good = append(good, r)
		case errors.Is(r.err, ErrCorrupt):
			bad = append(bad, r)
		default:
			return nil, r.err
		}
	}
	s.quarantine(look, bad)
	return good, nil
}

// scanTable reads and opens the rows of t whose ids begin with idPrefix.
func (s *deviceStore) scanTable(by reader, op string, t tableID, idPrefix string) ([]loadedRow, error) {
	rows, err := s.scanEvery(by, op, t, idPrefix)
	return s.onlyNewest(t, rows), err
}

// scanEvery is scanTable, and gives rows under their old names too.
func (s *deviceStore) scanEvery(by reader, op string, t tableID, idPrefix string) ([]loadedRow, error) {
	sp := specOf(t)
	var entries []Entry
	for _, whole := range s.scanPrefixes(t, idPrefix) {
		var answer result[[]Entry]
		err := by.scan(op, func(ctx context.Context) error {
			return answer.of(scanAll(s.gate.kv.Scan(ctx, sp.kind, whole)))
		})
		if err != nil {
			return nil, err
		}
		entries = append(entries, answer.get()...)
	}
	return s.openRows(by.get, op, t, entries)
}

// openRows opens rows of t, many of them on all cores.
func (s *deviceStore) openRows(call caller, op string, t tableID, entries []Entry) ([]loadedRow, error) {
	const fewest = 256 // for one core
	prefix := s.genOf(specOf(t)) + "/"
	out := make([]loadedRow, len(entries))
	open := func(from, to int) {
		for i, e := range entries[from:to] {
			out[from+i] = s.openRow(call, op, t, e, strings.TrimPrefix(e.Key.ID, prefix))
		}
	}
	var wg sync.WaitGroup
	size := max(fewest, (len(entries)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))
	for from := size; from < len(entries); from += size {
		wg.Go(func() { open(from, min(from+size, len(entries))) })
	}
	open(0, min(size, len(entries)))
	wg.Wait()
	for _, r := range out {
		if r.err != nil && !permanent(r.err) {
			return nil, r.err
		}
	}
	return out, nil
}

func (s *deviceStore) openRow(call caller, op string, t tableID, e Entry, id string) loadedRow {
	r := loadedRow{row: row{t, id}, key: e.Key, raw: e.Value}
	rec, err := s.cfg.codec.decode(e.Key, id, e.Value)
	if err == nil && rec.split != nil {
		m := *rec.split
		var raw []byte
		if raw, err = join(s.gate.kv, s.cfg.codec, call, op, e.Key, m); err == nil {
			if rec, err = s.cfg.codec.decode(e.Key, id, raw); err == nil && rec.split != nil {
				err = fmt.Errorf("%w: a split value in a split value", ErrCorrupt)
			}
		}
		s.mu.Lock()
		s.upkeep.loose.split(e.Key, m)
		s.mu.Unlock()
	}
	r.row.bucket, r.data, r.err = rec.id, rec.data, err
	if err != nil {
		r.row.bucket = id
	} else {
		r.raw = nil
	}
	return r
}

// join reads the parts of a split value.
func join(kv KV, cd codec, call caller, op string, k Key, m manifest) ([]byte, error) {
	keys := partKeys(k, m)
	var answer result[map[Key][]byte]
	err := call(op, func(ctx context.Context) error { return answer.of(kv.Get(ctx, keys...)) })
	if err != nil {
		return nil, err
	}
	got := answer.get()
	var b bytes.Buffer
	for _, pk := range keys {
		raw, ok := got[pk]
		if !ok {
			return nil, fmt.Errorf("%w: a part of a value of kind %s is missing", ErrCorrupt, k.Kind)
		}
		rec, err := cd.decode(pk, pk.ID, raw)
		if err != nil {
			return nil, err
		}
		b.Write(rec.data)
	}
	if b.Len() != m.size {
		return nil, fmt.Errorf("%w: the parts of a value of kind %s do not add up", ErrCorrupt, k.Kind)
	}
	return b.Bytes(), nil
}

// dropOrphans finds parts that a crash left without a manifest. Whether those
// of tables that are read on demand are such shows a look at the table, in the
// background: there are hardly ever any.
func (s *deviceStore) dropOrphans(parts map[Key][]byte) {
	s.learnSplits()
	for k, m := range s.splits {
		for _, pk := range partKeys(k, m) {
			delete(parts, pk)
		}
	}
	lazy := make(map[string]tableID)
	for t := range numTables {
		if sp := specOf(t); sp.lazy {
			lazy[string(sp.kind)] = t
		}
	}
	for k := range parts {
		_, id, _ := strings.Cut(k.ID, "/")
		kind, _, _ := strings.Cut(id, "-")
		if t, ok := lazy[kind]; ok {
			s.upkeep.loose.doubt(t, k)
		} else {
			s.upkeep.loose.orphan(k)
		}
	}
}

// lazyOrphans gives those of the doubtful parts to which no row refers.
// They are of earlier terms, so nobody can still be about to.
func (s *deviceStore) lazyOrphans(t tableID, doubtful map[Key]struct{}) ([]Key, error) {
	const op = "look for orphaned parts"
	sp := specOf(t)
	var answer result[[]Key]
	err := s.gate.look(context.Background(), op, func(ctx context.Context) error {
		left := maps.Clone(doubtful)
		for e, err := range s.gate.kv.Scan(ctx, sp.kind, s.genOf(sp)+"/") {
			if err != nil {
				return err
			}
			if len(e.Value) < headerSize || e.Value[1]&flagSplit == 0 {
				continue
			}
			_, id, _ := strings.Cut(e.Key.ID, "/")
			rec, err := s.cfg.codec.decode(e.Key, id, e.Value)
			if err != nil || rec.split == nil {
				return answer.of(nil, nil) // it might be the owner
			}
			for _, pk := range partKeys(e.Key, *rec.split) {
				delete(left, pk)
			}
		}
		return answer.of(slices.Collect(maps.Keys(left)), nil)
	})
	return answer.get(), err
}

// retire ends the device. Nothing more is written through it.
func (s *deviceStore) retire(cause error) {
	s.mu.Lock()
	s.queue.close()
	s.queue.disarm()
	s.appState.stop(&s.cfg.background)
	s.mu.Unlock()
	s.gate.end(cause)
}

// end is retire for a device on which a connection may still be up. That one
// would stay up, and deaf: nothing that it receives could be decrypted.
func (s *deviceStore) end(cause error) {
	s.mu.Lock()
	paired := s.gen != ""
	s.mu.Unlock()
	if paired {
		s.gate.cut(cause)
	}
	s.retire(cause)
}

// dismiss is end, and keeps what was deferred.
func (s *deviceStore) dismiss(cause error) error {
	err := s.flushLast()
	s.end(cause)
	return err
}

// retireAfterFlush ends the device and keeps what was deferred.
func (s *deviceStore) retireAfterFlush(cause error) error {
	err := s.flushLast()
	s.retire(cause)
	return err
}

// flushLast keeps what was deferred: what comes
// after the last look is refused, not forgotten.
func (s *deviceStore) flushLast() error {
	var err error
	for range 3 {
		if s.gate.check("") != nil {
			break
		}
		s.mu.Lock()
		s.packLocked(false)
		// Nothing waits for a lock that is not held only to store numbers.
		if c, changed := s.sizesLocked(); changed && s.gen != "" && !s.queue.closed && s.gate.fence.Held() {
			s.laterLocked(lazily, c)
		}
		s.mu.Unlock()
		if err = s.flush("flush"); err != nil {
			break
		}
		s.mu.Lock()
		done := s.nothingRidesLocked() && len(s.pack.loose) == 0
		if done {
			s.queue.close()
		}
		s.mu.Unlock()
		if done {
			break
		}
	}
	if err == nil && s.gate.check("") == nil {
		s.mu.Lock()
		late := !s.queue.closed
		s.queue.close() // somebody defers without end
		s.mu.Unlock()
		if late {
			err = s.flush("flush")
		}
	}
	return err
}

// slogAdapter is the logger of a Device.
type slogAdapter struct{ l *slog.Logger }

func (a slogAdapter) Debugf(msg string, args ...any) {
	a.l.Debug("whatsmeow store", "text", fmt.Sprintf(msg, args...))
}
func (a slogAdapter) Infof(msg string, args ...any) {
	a.l.Debug("whatsmeow store", "text", fmt.Sprintf(msg, args...))
}
func (a slogAdapter) Warnf(msg string, args ...any) {
	a.l.Warn("whatsmeow store", "text", fmt.Sprintf(msg, args...))
}
func (a slogAdapter) Errorf(msg string, args ...any) {
	a.l.Error("whatsmeow store", "text", fmt.Sprintf(msg, args...))
}
func (a slogAdapter) Sub(string) waLog.Logger { return a }
