package authstore

import (
	"context"
	"iter"
	"strings"
	"sync"
)

// scanRanges scans all of ranges, in one request where the KV can.
func scanRanges(ctx context.Context, kv KV, ranges []Range) iter.Seq2[Entry, error] {
	if many, ok := kv.(RangeScanner); ok && len(ranges) > 1 {
		return many.ScanRanges(ctx, ranges...)
	}
	return func(yield func(Entry, error) bool) {
		for _, r := range ranges {
			for e, err := range kv.Scan(ctx, r.Kind, r.IDPrefix) {
				if !yield(e, err) || err != nil {
					return
				}
			}
		}
	}
}

// readTables reads and opens what is kept in memory, and lists the parts of
// split values.
func (s *deviceStore) readTables(ctx context.Context) (rows []loadedRow, parts map[Key][]byte, err error) {
	call := func(op string, f func(context.Context) error) error { return s.cfg.load(ctx, op, f) }
	tables := make(map[Kind]tableID)
	var ranges []Range
	for t := range numTables {
		if sp := specOf(t); !sp.lazy && t != tHead && (sp.global || s.gen != "") {
			tables[sp.kind] = t
			ranges = append(ranges, Range{sp.kind, s.genOf(sp) + "/"}) // nothing moves while the device is loaded
		}
	}
	if s.gen != "" {
		ranges = append(ranges, Range{Kind: kindPart})
	}
	// Of parts only the names are of use.
	collect := func(found iter.Seq2[Entry, error]) ([]Entry, error) {
		return scanAll(func(yield func(Entry, error) bool) {
			for e, err := range found {
				if e.Key.Kind == kindPart {
					e.Value = nil
				}
				if !yield(e, err) {
					return
				}
			}
		})
	}
	parts = make(map[Key][]byte)
	take := func(kind Kind, found []Entry) ([]loadedRow, error) {
		if t, ok := tables[kind]; ok {
			got, err := s.openRows(call, "load "+string(kind), t, found)
			return s.onlyNewest(t, got), err
		}
		for _, e := range found {
			if gen, _, _ := strings.Cut(e.Key.ID, "/"); gen == s.gen || gen == globalGen { // others are being purged
				parts[e.Key] = nil
			}
		}
		return nil, nil
	}

	if _, ok := s.gate.kv.(RangeScanner); ok {
		byKind := make(map[Kind][]Entry)
		var answer result[[]Entry]
		err := call("load the device", func(ctx context.Context) error {
			return answer.of(collect(scanRanges(ctx, s.gate.kv, ranges)))
		})
		for _, e := range answer.get() {
			byKind[e.Key.Kind] = append(byKind[e.Key.Kind], e)
		}
		for kind, found := range byKind {
			var got []loadedRow
			if err == nil {
				got, err = take(kind, found)
			}
			rows = append(rows, got...)
		}
		return rows, parts, err
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg sync.WaitGroup
		mu sync.Mutex
	)
	for _, r := range ranges {
		wg.Go(func() {
			var answer result[[]Entry]
			bad := call("load "+string(r.Kind), func(ctx context.Context) error {
				return answer.of(collect(s.gate.kv.Scan(ctx, r.Kind, r.IDPrefix)))
			})
			var got []loadedRow
			if bad == nil {
				got, bad = take(r.Kind, answer.get())
			}
			mu.Lock()
			defer mu.Unlock()
			rows = append(rows, got...)
			if bad != nil && err == nil {
				err = bad
				cancel()
			}
		})
	}
	wg.Wait()
	return rows, parts, err
}
