package authstore

import (
	"context"
	"fmt"
	"slices"
)

// resealChunk is how many rows one step takes; commits of the device wait for
// it.
const resealChunk = 64

// Reseal rewrites every stored value that would be sealed otherwise if it were
// written now: with the first key of NewAESGCM, for the first time
// (WithPlaintextAllowed), or not at all (WithSealingRemoved). Then it moves the rows
// that do not stand under their sealed names yet (WithSealedNames). Rows that do are
// left alone, so it may be repeated, and goes on where it was broken off. It may run
// beside the device of f's term, whose commits wait for a step of it at most. An
// error that is not about single rows breaks it off.
//
// progress, which may be nil, is told how many of all rows are done.
//
// A row that does not open is left as it is, and the others are done all the
// same. The error then says how many such rows there are. It matches
// ErrWrongKey if the key is missing, ErrCorrupt if they are damaged,
// ErrNewerFormat, or ErrNotSealed.
func (c *Container) Reseal(ctx context.Context, f Fence, progress func(done, total int)) error {
	const op = "reseal"
	kinds := []Kind{kindPart, kindQuarantine, kindImport} // parts first: the rows that list them are rewritten last
	for t := range numTables {
		kinds = append(kinds, specOf(t).kind)
	}
	if err := c.answers(ctx); err != nil {
		return err
	}
	var stale, oldParts []Key
	total, done := 0, 0
	for _, kind := range kinds {
		var answer result[[]Key]
		err := c.look(ctx, op, func(ctx context.Context) error {
			var old []Key
			n := 0
			for e, err := range c.kv.Scan(ctx, kind, "") {
				if err != nil {
					return err
				}
				n++
				// A split value is sealed inside as well: its manifest does
				// not tell with which key.
				if split := len(e.Value) > 1 && e.Value[1]&flagSplit != 0; split || !c.cfg.codec.current(e.Value) {
					old = append(old, e.Key)
				}
			}
			if kind != kindPart {
				total += n
				done += n - len(old)
			}
			return answer.of(old, nil)
		})
		if err != nil {
			return err
		}
		if kind == kindPart {
			oldParts = answer.get()
		} else {
			stale = append(stale, answer.get()...)
		}
	}
	tell := func() {
		if progress != nil {
			progress(done, total)
		}
	}
	tell()
	var failed []error
	for keys := range slices.Chunk(stale, resealChunk) {
		errs, err := c.resealSome(ctx, f, keys)
		if err != nil {
			return err
		}
		failed = append(failed, errs...)
		done += len(keys)
		tell()
	}
	if len(failed) > 0 {
		return fmt.Errorf("authstore: reseal: %d of %d rows were left as they are: %w", len(failed), total, failed[0])
	}
	// Every value that stands in parts has new ones, so what is left of the
	// old ones belongs to nothing.
	for keys := range slices.Chunk(oldParts, resealChunk) {
		if err := c.drop(ctx, f, op, keys); err != nil {
			return err
		}
	}
	return c.moveNames(ctx, f)
}

// drop removes rows while no commit of the device is on its way.
func (c *Container) drop(ctx context.Context, f Fence, op string, keys []Key) error {
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer func() { <-c.sem }()
	if err := c.settle(ctx, f); err != nil {
		return err
	}
	ws := make([]write, 0, len(keys))
	for _, k := range keys {
		ws = append(ws, write{entry: Entry{Key: k}, del: true})
	}
	return c.commitBeside(ctx, f, op, ws)
}

// resealSome rewrites rows while no commit of the device is on its way. errs
// are about single rows.
func (c *Container) resealSome(ctx context.Context, f Fence, keys []Key) (errs []error, err error) {
	const op = "reseal"
	if err := c.lock(ctx); err != nil {
		return nil, err
	}
	defer func() { <-c.sem }()
	if err := c.settle(ctx, f); err != nil {
		return nil, err
	}
	s, release, err := c.holdCommits(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	var answer result[map[Key][]byte]
	err = c.cfg.call(ctx, op, func(ctx context.Context) error { return answer.of(c.kv.Get(ctx, keys...)) })
	if err != nil {
		return nil, err
	}
	call := func(op string, f func(context.Context) error) error { return c.cfg.call(ctx, op, f) }
	lim := c.kv.Limits()
	var parts, main, stale []write
	splits := make(map[Key]*manifest)
	for k, raw := range answer.get() {
		rec, body, err := c.cfg.codec.openForReseal(c.kv, call, k, raw)
		if err != nil {
			if !permanent(err) {
				return errs, err
			}
			errs = append(errs, err)
			continue
		}
		value, err := c.cfg.codec.wrap(k, body.flags, body.data)
		if err != nil {
			return errs, err
		}
		if rec.split != nil {
			for _, pk := range partKeys(k, *rec.split) {
				stale = append(stale, write{entry: Entry{Key: pk}, del: true})
			}
			splits[k] = nil
		}
		if !lim.fits(k, value) {
			pieces, m, manifest, err := c.cfg.codec.cut(lim, k, value)
			if err != nil {
				return errs, err
			}
			for _, e := range pieces {
				parts = append(parts, write{entry: e})
			}
			value, splits[k] = manifest, &m
		}
		main = append(main, write{entry: Entry{k, value}})
	}
	if err := c.commitAll(ctx, f, op, slices.Concat(parts, main, stale)); err != nil {
		return errs, err
	}
	if s != nil {
		for k, m := range splits {
			if m == nil {
				delete(s.splits, k)
			} else {
				s.splits[k] = *m
			}
		}
	}
	return errs, nil
}

type resealed struct {
	flags byte
	data  []byte
}

// openForReseal opens raw, through its parts if it stands in some. The
// result is complete: flags and body, as they go into wrap.
func (c codec) openForReseal(kv KV, call caller, k Key, raw []byte) (rec opened, body resealed, err error) {
	if rec, err = c.decode(k, k.ID, raw); err != nil {
		return rec, body, err
	}
	inner, whole := rec, raw
	if rec.split != nil {
		if whole, err = join(kv, c, call, "reseal", k, *rec.split); err != nil {
			return rec, body, err
		}
		if inner, err = c.decode(k, k.ID, whole); err != nil {
			return rec, body, err
		}
		if inner.split != nil {
			return rec, body, fmt.Errorf("%w: the parts of a split value make another split value", ErrCorrupt)
		}
	}
	body = resealed{whole[1] &^ flagSealed, inner.data}
	if body.flags&flagLongID != 0 {
		body.data = append(appendBytes(nil, []byte(inner.id)), inner.data...)
	}
	return rec, body, nil
}
