package authstore

import "context"

// Methods that newer versions of whatsmeow ask of a store, so that a host on one of
// them compiles and works. See also tokens.go, outgoing.go and appstate.go.

const nctSalt = "nct_salt"

// PutNCTSalt keeps the salt from which whatsmeow derives a token for first
// messages to strangers.
func (s *deviceStore) PutNCTSalt(ctx context.Context, salt []byte) error {
	return s.update(ctx, "put NCT salt", soon, func(get func(tableID, string) ([]byte, bool)) []change {
		if old, ok := get(tMisc, nctSalt); same(old, ok, salt) {
			return nil
		}
		return []change{put(tMisc, nctSalt, copyOf(salt))}
	})
}

// GetNCTSalt gives nil when there is none.
func (s *deviceStore) GetNCTSalt(ctx context.Context) ([]byte, error) {
	if err := s.ready("get NCT salt"); err != nil {
		return nil, err
	}
	if v, ok := s.get(ctx, tMisc, nctSalt); ok {
		return copyOf(v), nil
	}
	return nil, nil
}

func (s *deviceStore) DeleteNCTSalt(ctx context.Context) error {
	return s.update(ctx, "delete NCT salt", soon, func(get func(tableID, string) ([]byte, bool)) []change {
		if _, ok := get(tMisc, nctSalt); !ok {
			return nil
		}
		return []change{del(tMisc, nctSalt)}
	})
}
