package firestoresim

import (
	"cmp"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const maxIDBytes = 1500

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, "firestoresim: "+format, args...)
}

// splitDatabase splits projects/P/databases/D[/documents[/path]].
func splitDatabase(name string) (db, path string, err error) {
	parts := strings.SplitN(name, "/", 6)
	if len(parts) < 4 || parts[0] != "projects" || parts[2] != "databases" || parts[1] == "" || parts[3] == "" ||
		len(parts) > 4 && parts[4] != "documents" {
		return "", "", invalid("the name %q does not begin with projects/{project}/databases/{database}/documents", name)
	}
	db = strings.Join(parts[:4], "/")
	if len(parts) == 6 {
		path = parts[5]
	}
	return db, path, nil
}

func checkDatabase(name string) error {
	db, _, err := splitDatabase(name)
	if err == nil && db != name {
		err = invalid("%q is not the name of a database", name)
	}
	return err
}

// documentPath checks a document's full name and gives its path behind
// /documents/. Ids that are too long may be read, as on the emulator: there is
// nothing under them.
func documentPath(db, name string, write bool) (string, error) {
	of, path, err := splitDatabase(name)
	if err != nil {
		return "", err
	}
	if of != db {
		return "", invalid("the document %q is not in %s", name, db)
	}
	return path, checkPath(path, name, write)
}

func checkPath(path, name string, write bool) error {
	ids := strings.Split(path, "/")
	if len(ids)%2 != 0 {
		return invalid("the document name %q needs an even number of segments behind /documents/, not %d", name, len(ids))
	}
	for i, id := range ids {
		if err := checkID(id, i%2 == 0, write); err != nil {
			return err
		}
	}
	return nil
}

func checkID(id string, collection, write bool) error {
	switch {
	case id == "":
		return invalid("an id is empty")
	case id == "." || id == "..":
		return invalid("the id %q is not allowed", id)
	case reserved(id):
		if _, ok := numericID(id); !collection && ok {
			return nil
		}
		return invalid("the id %q is reserved", id)
	case write && len(id) > maxIDBytes:
		return invalid("an id has %d bytes, more than %d", len(id), maxIDBytes)
	}
	return nil
}

// reserved are names of the form __x__.
func reserved(s string) bool {
	return len(s) > 4 && strings.HasPrefix(s, "__") && strings.HasSuffix(s, "__")
}

// numericID is the number in an id of the form __id7__, which databases that
// were made from Datastore have.
func numericID(id string) (int64, bool) {
	s, ok := strings.CutPrefix(id, "__id")
	if !ok {
		return 0, false
	}
	if s, ok = strings.CutSuffix(s, "__"); !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// comparePaths orders documents by name: segment by segment, numeric ids
// first, the others by their bytes.
func comparePaths(a, b string) int {
	for a != "" && b != "" {
		var x, y string
		x, a, _ = strings.Cut(a, "/")
		y, b, _ = strings.Cut(b, "/")
		if x == y {
			continue
		}
		n, xNum := numericID(x)
		m, yNum := numericID(y)
		switch {
		case xNum && yNum:
			return cmp.Compare(n, m)
		case xNum:
			return -1
		case yNum:
			return 1
		}
		return strings.Compare(x, y)
	}
	return cmp.Compare(len(a), len(b))
}

// parent is the collection's path of a document's path.
func collectionOf(path string) string { return path[:strings.LastIndexByte(path, '/')] }

func idOf(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// fieldPath parses a.`b c`.d.
func fieldPath(s string) ([]string, error) {
	if s == "" {
		return nil, invalid("a field path is empty")
	}
	bad := func() ([]string, error) {
		return nil, invalid("the field path %q is malformed: segments are letters, digits and _, others are quoted with `", s)
	}
	var path []string
	for rest := s; ; {
		var name string
		if strings.HasPrefix(rest, "`") {
			var b strings.Builder
			i := 1
			for ; i < len(rest) && rest[i] != '`'; i++ {
				if rest[i] == '\\' {
					if i++; i == len(rest) {
						return bad()
					}
				}
				b.WriteByte(rest[i])
			}
			if i >= len(rest) || b.Len() == 0 {
				return bad()
			}
			name, rest = b.String(), rest[i+1:]
		} else {
			i := 0
			for i < len(rest) && (rest[i] == '_' || rest[i]|0x20 >= 'a' && rest[i]|0x20 <= 'z' || i > 0 && rest[i] >= '0' && rest[i] <= '9') {
				i++
			}
			if i == 0 {
				return bad()
			}
			name, rest = rest[:i], rest[i:]
		}
		if reserved(name) {
			return nil, invalid("the field path %q has a reserved name", s)
		}
		path = append(path, name)
		if rest == "" {
			return path, nil
		}
		if rest[0] != '.' || len(rest) == 1 {
			return bad()
		}
		rest = rest[1:]
	}
}
