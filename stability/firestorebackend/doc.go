// Package firestorebackend keeps an account on Cloud Firestore.
package firestorebackend
