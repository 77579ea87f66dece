#include "tls_offload/engine/known_answer.h"

#include "tls_offload/engine/key_state.h"

#include <cstring>
#include <openssl/bn.h>
#include <openssl/evp.h>

namespace tls_offload::offload {
namespace {

using BnHandle = std::unique_ptr<BIGNUM, ReleaseWith<BN_clear_free>>;

// A key for nothing but this: everybody who has this file has it. From text, as every other key: OpenSSL
// does not make keys from numbers while the relief (tls_offload/relief.h) is active.
constexpr const char* key_pem = "-----BEGIN PRIVATE KEY-----\n"
                                "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQDi0zChLJnYQqbA\n"
                                "+FmGCz+EfNz4HeXUbclzQfveljA1Ym4TEVE5ti4LPMC3XsH6PUYpieZdt6V93ooP\n"
                                "ROPJIywM+6q0IL93j+jW6yT32XXoWwtMuW4hlplvRGYEt6BcfXa3e5dDiOdJeCpH\n"
                                "hwBmJvlRm/p/iFlral13KmHO4goz4Kx7q+9AvZy4XdBCqivAYPGI/I8j7wWzzRBv\n"
                                "RH+m0ts4IAIyXRUqi0OnRvsu9wJnSk1I5HAdZ6eFflHil0HM81tdtEwD5xFcXFYQ\n"
                                "20IuGuOBNCTRHxbZHKA9EFQG6aPPSf52l9FQPTJIOge+aBoVh42BMwUHWCzWd+Ui\n"
                                "4SHYsHBjAgMBAAECggEAR/qWuv7JT0xPWHs3BYd6P5PUF1R9g3zXaaDtyYPFhptW\n"
                                "rOxY50R9tgkwasBCNCPPqQzesqy9coT1MMU+t6xWpUQTtpeRyuI7FECIebJjbTm/\n"
                                "CzjozvXYeOuuqB6RX+hcjPtGVCMUqkbcu9gGc2Q4yAIEawYcwi59vHwRj7JBZJZ1\n"
                                "ZINILUk2plRsjI2xAh8o1+04k6SRX48NqoaObqV7EA2fvoHGQV2ahh9E540G8oj4\n"
                                "FSR7M8YthJorJCKlMfithCINxQXGOg4YeWEhQl8qfE2E8ANQGIdyY2wEP56ZhimS\n"
                                "3V6o+rkDoYkxOn61Ufo+NEkN5Rhki22HhU7qmajSgQKBgQD9Vzf8I357bOhMJslS\n"
                                "VC5teJ5DN5IAEOq0DbAYQA025XC9bNXHXueNQyYeawHqnrhPNXTETboVaTwRuwzF\n"
                                "lHzJHaOZ5/89tgFIuIryDgJMGDCJ2A7vk0kTfptHlZaHH5mmpLUyEIdgNhfMYCNz\n"
                                "X5qNV2wDCDV9OuHoZsLQx/2OQQKBgQDlNLe94ZDEacOYs/JPPSYCh8T2sbgi8Yx8\n"
                                "vFKGL1f0r1eEVgkJSqNVDR2DjHRwxiV28PNREA1F9FSrMaACq1Yw/te3ZrDytW5J\n"
                                "CkB/8QT4zyuYiphIUDV4/SgbLnxyCwYddhyYaZMnHDR9YB2ItDuCGG4ecSRp6ewk\n"
                                "T9B5A8GdowKBgFyDCRKt83Ym4v1L/KBv1TRso35wQIR9qPdvOCri2PB/AJhrsfVI\n"
                                "Fs5jAvyAnwaKR0vFfYphx94hu6nN4HAWNStMA34kVfS3Dej8WuDhdL1M6AyuNWYP\n"
                                "JtRTm2icm4dkZruP0gsiNg1QM4iSYt+yvcF3dx30VXQRmIVBYUrUfScBAoGBAKUo\n"
                                "r53rg92EOKU4RUpDzbfVDWCV/xFu7MSVDwIR61ctYerB9BD172vB35qDAwSgQy7J\n"
                                "wQqQfoAB52DUiXBi9eCoQdit7qN1iNqowIFwsxx2a/unIsQ4x88+3D9558Jlnypr\n"
                                "iX9p09dCw6/0KlPvS1IbOH5HGO4Y2UfxG0+YHVPxAoGAdu9y58UR2bY4xA4VNtEJ\n"
                                "oFETigVVbAMVyWk8eABs/oLZwPAOVtG8c0BgVJYwbaeOoiQ38cGLgNsOqE8Xn2G2\n"
                                "91s0aeymnHrACr9lRz8GLLBlvpH2gx8+aAGyb0fZZ+dP4sKlAGLK7ZZLf00rztGl\n"
                                "LB06O7zkq7GzMnZtPxx2D84=\n"
                                "-----END PRIVATE KEY-----\n";
constexpr const char* answer_hex =
    "cbbdb855732d7a0f280db8b925e797d1d8c30c30e68a54852ba5cbf2329e23d68fe20ee8f06f3325028129d1"
    "87e348bd38cd9117d8f790118d34313e817197783953cb6b7cdcf11199d9849e8176641ad9bd78f0f3da4e69"
    "99df3914da52ce4d72fb09546b6800b3bb1391c45cf76de503930a4b7cdea83be3e810853146e6714ee4c8e5"
    "438fddca6d383312345c634ee9e800dd29ef2d94be4de5b6f2a0e902543e972ee701fde0975c3902676a98c6"
    "c761d35dba934fafd907f7fd39c7c706a4482d737a0bb301abbf5a1a9fe999b20320bb1a35961feb6327ec0d"
    "56a90be074af61dda5e082762c560047adcae591c43f5b1f4c36ccd4c2d9ed8bac3796ce";
constexpr const char* text = "millrace known answer"; // what is signed: its SHA-256

BnHandle from_hex(const char* hex) {
    BIGNUM* out = nullptr;
    CHECK(BN_hex2bn(&out, hex) != 0);
    return BnHandle{out};
}

KeyRef make_key() {
    auto made = PrivateKey::from_pem(key_pem);
    CHECK(made.has_value());
    return *made;
}

} // namespace

KnownAnswer::KnownAnswer() : key(make_key()) {
    Sha256Digest digest;
    std::size_t length = 0;
    CHECK(EVP_Q_digest(nullptr, "SHA256", nullptr, text, std::strlen(text),
                       reinterpret_cast<unsigned char*>(digest.data()), &length) == 1);
    pad_pkcs1_sha256(digest, block);
    const BnHandle answer_number = from_hex(answer_hex);
    CHECK(BN_bn2binpad(answer_number.get(), reinterpret_cast<unsigned char*>(answer.data()),
                       static_cast<int>(answer.size())) == static_cast<int>(answer.size()));
}

} // namespace tls_offload::offload
