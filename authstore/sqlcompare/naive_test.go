package sqlcompare

import (
	"context"
	"iter"

	"go.mau.fi/whatsmeow/store"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/authstore/authstoretest/naive"
)

// slowKV is a KV behind w.
type slowKV struct {
	authstore.KV
	w *way
}

func (k slowKV) Get(ctx context.Context, ks ...authstore.Key) (map[authstore.Key][]byte, error) {
	k.w.trip()
	return k.KV.Get(ctx, ks...)
}

func (k slowKV) Scan(ctx context.Context, kind authstore.Kind, prefix string) iter.Seq2[authstore.Entry, error] {
	return func(yield func(authstore.Entry, error) bool) {
		k.w.trip()
		k.KV.Scan(ctx, kind, prefix)(yield)
	}
}

func (k slowKV) Commit(ctx context.Context, epoch int64, b authstore.Batch) error {
	k.w.trip()
	for _, e := range b.Put {
		k.w.bytes.Add(int64(len(e.Value)))
	}
	return k.KV.Commit(ctx, epoch, b)
}

// naiveOn is the naive store with a document for each key of kv.
func naiveOn(kv authstore.KV, epoch int64, answers store.AllStores) naive.Store {
	return naive.Store{
		AllStores: answers,
		Read: func(ctx context.Context, kind, id string) {
			if _, err := kv.Get(ctx, authstore.Key{Kind: authstore.Kind(kind), ID: id}); err != nil {
				panic(err)
			}
		},
		Write: func(ctx context.Context, kind, id string, v []byte) {
			b := authstore.Batch{Put: []authstore.Entry{{Key: authstore.Key{Kind: authstore.Kind(kind), ID: id}, Value: v}}}
			if err := kv.Commit(context.WithoutCancel(ctx), epoch, b); err != nil {
				panic(err)
			}
		},
	}
}
