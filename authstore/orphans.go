package authstore

import (
	"context"
	"maps"
	"slices"
	"strings"
)

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
