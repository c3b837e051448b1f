package authstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// sealNames begins sealed names for an account that has plain ones: only the
// record of its device changes. Nobody else uses s yet.
func (s *deviceStore) sealNames() error {
	if !s.cfg.sealNames || s.cfg.codec.aead == nil || s.head.Gen == "" || s.head.Names != nil {
		return nil
	}
	h := s.head
	h.Names = newHeadNames(true)
	encoded, err := h.encode()
	if err != nil {
		return err
	}
	s.useNames(h.Names)
	if _, err := s.commitRows("seal the names", []renderedRow{{row{tHead, headID}, encoded, true}}, Batch{}, true); err != nil {
		return err
	}
	s.head = h
	return nil
}

// moveInBackground gives sealed names to the rows that have none, if there may
// be such. A move that was stopped is taken up again in an hour, or when the device is
// next loaded.
func (s *deviceStore) moveInBackground() {
	if n := s.names.Load(); n == nil || !n.moving.Load() {
		return
	}
	s.inBackground(func() {
		s.untilDone(func(err error) {
			s.cfg.log.Warn("rows still have plain names; the move is tried again in an hour", "error", err)
		}, func() error { return s.moveNames(context.Background()) })
	})
}

// moveNames moves every row that may ever be read again, between the commits of
// the device, and then says so in the record of the account's device.
func (s *deviceStore) moveNames(ctx context.Context) error {
	const op = "seal the names"
	if err := s.acquire(ctx, op, s.moveSem); err != nil {
		return err
	}
	defer func() { <-s.moveSem }()
	n := s.names.Load()
	if n == nil || !n.moving.Load() {
		return nil
	}
	left := 0
	for _, t := range append(privateTables(), numTables) { // numTables: what was set aside
		kind := kindQuarantine
		if t != numTables {
			kind = specOf(t).kind
		}
		var answer result[[]Key]
		err := s.gate.look(ctx, op, func(ctx context.Context) error {
			var old []Key
			for e, err := range s.gate.kv.Scan(ctx, kind, "") {
				if err != nil {
					return err
				}
				if gen, id := genAndID(e.Key); s.mayBeRead(gen) && !isSealedName(id, e.Value) {
					old = append(old, e.Key)
				}
			}
			return answer.of(old, nil)
		})
		if err != nil {
			return err
		}
		for keys := range slices.Chunk(answer.get(), resealChunk) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			bad, err := s.moveSome(ctx, op, t, keys)
			if err != nil {
				return err
			}
			left += bad
		}
	}
	if left > 0 {
		return fmt.Errorf("authstore: %d rows could not be opened, and keep their plain names", left)
	}
	return s.settleNames(op)
}

func privateTables() (out []tableID) {
	for t := range numTables {
		if specOf(t).private {
			out = append(out, t)
		}
	}
	return out
}

// genAndID takes a stored id apart. A row in quarantine belongs to no generation.
func genAndID(k Key) (gen, id string) {
	if k.Kind == kindQuarantine {
		return "", k.ID
	}
	gen, id, _ = strings.Cut(k.ID, "/")
	return gen, id
}

// mayBeRead says which generations can be the account's device again. Others
// are an unfinished import's, which looks after its own, or are being purged.
func (s *deviceStore) mayBeRead(gen string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return gen == "" || gen == s.head.Gen || s.head.Kept != nil && gen == s.head.Kept.Gen
}

// moveSome moves rows while no commit of the device is on its way, and says how
// many it left alone. t is numTables for what was set aside.
func (s *deviceStore) moveSome(ctx context.Context, op string, t tableID, keys []Key) (left int, err error) {
	if err := s.acquire(ctx, op, s.commitSem); err != nil {
		return 0, err
	}
	defer func() { <-s.commitSem }()
	s.learnSplits()
	call := func(op string, f func(context.Context) error) error { return s.gate.run(op, false, f) }
	get := func(keys []Key) (map[Key][]byte, error) {
		var answer result[map[Key][]byte]
		err := call(op, func(ctx context.Context) error { return answer.of(s.gate.kv.Get(ctx, keys...)) })
		return answer.get(), err
	}
	rows, err := get(keys)
	if err != nil {
		return 0, err
	}
	type move struct {
		from, to Key
		flags    byte
		body     []byte
		parts    []Key
	}
	var moves []move
	var bad []loadedRow
	for k, raw := range rows {
		rec, body, err := s.cfg.codec.openForReseal(s.gate.kv, call, k, raw)
		switch {
		case errors.Is(err, ErrCorrupt) && t != numTables:
			bad = append(bad, loadedRow{key: k, raw: raw, err: err})
			continue
		case t == numTables && permanent(err):
			continue // nobody can read it, under whatever name
		case err != nil && permanent(err):
			left++
			continue
		case err != nil:
			return left, err
		}
		gen, id := genAndID(k)
		if body.flags&flagLongID == 0 {
			body.data = append(appendBytes(nil, []byte(id)), body.data...)
		} else if long, _, ok := takeBytes(body.data); ok {
			id = string(long)
		}
		m := move{from: k, to: s.names.Load().at(k.Kind, t, gen, id), flags: body.flags | flagLongID, body: body.data}
		if rec.split != nil {
			m.parts = partKeys(k, *rec.split)
		}
		moves = append(moves, m)
	}
	targets := make([]Key, 0, len(moves))
	for _, m := range moves {
		targets = append(targets, m.to)
	}
	there := make(map[Key][]byte)
	if len(targets) > 0 {
		if there, err = get(targets); err != nil {
			return left, err
		}
	}
	lim := s.gate.kv.Limits()
	splits := make(map[Key]*manifest)
	var ws, stale []write
	for _, m := range moves {
		if _, newer := there[m.to]; !newer {
			there[m.to] = nil
			var value []byte
			var parts []Entry
			err := s.seal(op, func() (err error) {
				if value, err = s.cfg.codec.wrap(m.to, m.flags, m.body); err == nil && !lim.fits(m.to, value) {
					var mf manifest
					parts, mf, value, err = s.cfg.codec.cut(lim, m.to, value)
					splits[m.to] = &mf
				}
				return err
			})
			if err != nil {
				return left, err
			}
			for _, e := range parts {
				ws = append(ws, write{entry: e})
			}
			ws = append(ws, write{entry: Entry{m.to, value}})
		}
		ws = append(ws, write{entry: Entry{Key: m.from}, del: true})
		splits[m.from] = nil
		for _, p := range m.parts {
			stale = append(stale, write{entry: Entry{Key: p}, del: true})
		}
	}
	for _, b := range chunk(lim, append(ws, stale...)) {
		if err := s.gate.commit(op, toBatch(b)); err != nil {
			return left, err
		}
	}
	for k, m := range splits {
		if m == nil {
			delete(s.splits, k)
		} else {
			s.splits[k] = *m
		}
	}
	s.quarantine(nil, bad)
	return left, nil
}

// at is where a row of that id stands under its sealed name.
func (n *names) at(kind Kind, t tableID, gen, id string) Key {
	if t == numTables {
		return Key{kind, n.aside(id)}
	}
	return Key{kind, gen + "/" + n.of(t, id)}
}

// settleNames says that no row stands under a plain name any more.
func (s *deviceStore) settleNames(op string) error {
	if err := s.flush(op); err != nil { // damaged ones that were found on the way
		return err
	}
	if err := s.acquire(context.Background(), op, s.saveSem); err != nil {
		return err
	}
	defer func() { <-s.saveSem }()
	s.mu.Lock()
	h := s.head
	s.mu.Unlock()
	if h.Names == nil || !h.Names.Moving {
		return nil
	}
	h.Names = &headNames{Key: h.Names.Key}
	if err := s.writeHead(op, h); err != nil {
		return err
	}
	s.names.Load().moving.Store(false)
	return nil
}

// moveNames is for Reseal: it moves what stands under plain names, beside the
// device that is loaded, or without one.
func (c *Container) moveNames(ctx context.Context, f Fence) error {
	if err := c.lock(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	s := c.current
	c.mu.Unlock()
	if s != nil && s.gate.check("") == nil {
		<-c.sem
		return s.moveNames(ctx)
	}
	defer func() { <-c.sem }()
	if err := c.settle(ctx, f); err != nil {
		return err
	}
	h, err := c.readHead(ctx)
	if err != nil {
		return err
	}
	s = newDeviceStore(c, f)
	defer s.retire(ErrSuperseded)
	s.head, s.gen = h, h.Gen
	s.useNames(h.Names)
	if err := s.sealNames(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { // nobody else ends s
		select {
		case <-c.over:
			cancel(ErrSuperseded)
		case <-ctx.Done():
		}
	}()
	return s.moveNames(ctx)
}
